package localpath

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"k8s.io/client-go/rest"
)

// Proxied reaches nodes through the API server, which knows their addresses and what they trust.
type Proxied struct {
	API rest.Interface // of core/v1, with the right to nodes/proxy
}

// Make implements Nodes.
func (p Proxied) Make(ctx context.Context, node, volume string) (string, error) {
	body, err := p.ask(ctx, http.MethodPut, node, volume)
	if err != nil {
		return "", err
	}
	var answer made
	if err := json.Unmarshal(body, &answer); err != nil || answer.Path == "" {
		return "", fmt.Errorf("node %s answered %.100q and not with a path: is it of another version?", node, body)
	}
	return answer.Path, nil
}

// Remove implements Nodes.
func (p Proxied) Remove(ctx context.Context, node, volume string) error {
	_, err := p.ask(ctx, http.MethodDelete, node, volume)
	return err
}

func (p Proxied) ask(ctx context.Context, verb, node, volume string) ([]byte, error) {
	return p.API.Verb(verb).Resource("nodes").Name(node).SubResource("proxy").Suffix(Prefix, volume).Do(ctx).Raw()
}
