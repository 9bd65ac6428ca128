package provider

import "context"

// Answers waits until all issuers told their keys.
func (i *Issuers) Answers(ctx context.Context) error { return i.current.Load().answers(ctx) }

// Replace puts another content of the file into force.
func (i *Issuers) Replace(ctx context.Context, content []byte) error { return i.replace(ctx, content) }
