package persistence

import (
	"errors"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

func TestTooLarge(t *testing.T) {
	tests := map[string]struct {
		err  error
		want bool
	}{
		"no error":                             {},
		"the datastore refuses":                {err: rpctypes.ErrRequestTooLarge, want: true},
		"the client does not send it":          {err: status.Error(codes.ResourceExhausted, "trying to send message larger than max (3 vs. 2)"), want: true},
		"the datastore has no room at all":     {err: rpctypes.ErrNoSpace},
		"the datastore has too many to answer": {err: status.Error(codes.ResourceExhausted, "too many requests")},
		"anything else":                        {err: errors.New("larger than max")},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := apierrors.IsRequestEntityTooLargeError(tooLarge(tc.err)); got != tc.want {
				t.Errorf("tooLarge(%v) is about size: %v, want %v", tc.err, got, tc.want)
			}
		})
	}
}
