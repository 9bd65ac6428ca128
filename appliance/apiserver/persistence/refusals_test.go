package persistence

import (
	"errors"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/storage"
)

func TestRefusal(t *testing.T) {
	tests := map[string]struct {
		err  error
		want metav1.StatusReason
	}{
		"no error":                             {},
		"the datastore refuses":                {err: rpctypes.ErrRequestTooLarge, want: metav1.StatusReasonRequestEntityTooLarge},
		"the client does not send it":          {err: status.Error(codes.ResourceExhausted, "trying to send message larger than max (3 vs. 2)"), want: metav1.StatusReasonRequestEntityTooLarge},
		"a new object has no version":          {err: storage.ErrResourceVersionSetOnCreate, want: metav1.StatusReasonBadRequest},
		"the datastore has no room at all":     {err: rpctypes.ErrNoSpace},
		"the datastore has too many to answer": {err: status.Error(codes.ResourceExhausted, "too many requests")},
		"anything else":                        {err: errors.New("larger than max")},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := apierrors.ReasonForError(refusal(tc.err)); got != tc.want {
				t.Errorf("refusal(%v) is %q, want %q", tc.err, got, tc.want)
			}
		})
	}
}
