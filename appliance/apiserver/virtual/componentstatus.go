package virtual

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"

	"knarr.dev/knarr/appliance/apiserver/printing"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

// datastore is the one component this server can vouch for.
const datastore = "etcd-0"

// ComponentStatuses is for clients of old; what it can say truthfully is whether the datastore answers.
func ComponentStatuses(env *resource.Env) (rest.Storage, error) {
	return &components{
		TableConvertor: printing.ComponentStatuses(),
		check: func(ctx context.Context) error {
			// Without a resourceVersion the datastore itself has to answer.
			_, err := env.Storage(corev1.Resource("namespaces")).Get(ctx, metav1.NamespaceDefault, &metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return nil
			}
			return err
		},
	}, nil
}

type components struct {
	rest.TableConvertor
	check func(ctx context.Context) error
}

var (
	_ rest.Lister             = &components{}
	_ rest.Getter             = &components{}
	_ rest.ShortNamesProvider = &components{}
)

func (c *components) New() runtime.Object     { return &corev1.ComponentStatus{} }
func (c *components) NewList() runtime.Object { return &corev1.ComponentStatusList{} }
func (c *components) Destroy()                {}
func (c *components) NamespaceScoped() bool   { return false }
func (c *components) GetSingularName() string { return "componentstatus" }
func (c *components) ShortNames() []string    { return []string{"cs"} }

func (c *components) List(ctx context.Context, _ *metainternalversion.ListOptions) (runtime.Object, error) {
	return &corev1.ComponentStatusList{Items: []corev1.ComponentStatus{c.datastore(ctx)}}, nil
}

func (c *components) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	if name != datastore {
		return nil, apierrors.NewNotFound(corev1.Resource("componentstatuses"), name)
	}
	status := c.datastore(ctx)
	return &status, nil
}

func (c *components) datastore(ctx context.Context) corev1.ComponentStatus {
	condition := corev1.ComponentCondition{Type: corev1.ComponentHealthy, Status: corev1.ConditionTrue, Message: "ok"}
	if err := c.check(ctx); err != nil {
		condition.Status, condition.Message, condition.Error = corev1.ConditionFalse, "", err.Error()
	}
	return corev1.ComponentStatus{
		ObjectMeta: metav1.ObjectMeta{Name: datastore},
		Conditions: []corev1.ComponentCondition{condition},
	}
}
