package scheme

import (
	"fmt"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
)

// addConversions registers both directions of every kind that is served in two versions, and of its lists.
func addConversions(s *runtime.Scheme) error {
	for _, add := range []func(*runtime.Scheme) error{
		pair(eventToV1, eventToCore),
		pair(
			func(in *corev1.EventList, out *eventsv1.EventList) error {
				out.ListMeta = in.ListMeta
				return each(in.Items, &out.Items, eventToV1)
			},
			func(in *eventsv1.EventList, out *corev1.EventList) error {
				out.ListMeta = in.ListMeta
				return each(in.Items, &out.Items, eventToCore)
			}),
		pair(autoscalerToV1, autoscalerToV2),
		pair(
			func(in *autoscalingv2.HorizontalPodAutoscalerList, out *autoscalingv1.HorizontalPodAutoscalerList) error {
				out.ListMeta = in.ListMeta
				return each(in.Items, &out.Items, autoscalerToV1)
			},
			func(in *autoscalingv1.HorizontalPodAutoscalerList, out *autoscalingv2.HorizontalPodAutoscalerList) error {
				out.ListMeta = in.ListMeta
				return each(in.Items, &out.Items, autoscalerToV2)
			}),
	} {
		if err := add(s); err != nil {
			return fmt.Errorf("register a conversion: %w", err)
		}
	}
	return nil
}

// pair makes the registration of two opposite conversions.
func pair[A, B any](there func(*A, *B) error, back func(*B, *A) error) func(*runtime.Scheme) error {
	return func(s *runtime.Scheme) error {
		if err := s.AddConversionFunc((*A)(nil), (*B)(nil), func(in, out any, _ conversion.Scope) error {
			return there(in.(*A), out.(*B))
		}); err != nil {
			return err
		}
		return s.AddConversionFunc((*B)(nil), (*A)(nil), func(in, out any, _ conversion.Scope) error {
			return back(in.(*B), out.(*A))
		})
	}
}

// each converts a list's items; a nil list stays nil.
func each[A, B any](in []A, out *[]B, convert func(*A, *B) error) error {
	if in == nil {
		*out = nil
		return nil
	}
	*out = make([]B, len(in))
	for i := range in {
		if err := convert(&in[i], &(*out)[i]); err != nil {
			return err
		}
	}
	return nil
}
