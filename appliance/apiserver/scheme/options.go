package scheme

import (
	"fmt"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
)

// addOptions registers how query parameters become the options of subresources such as log and exec.
func addOptions(s *runtime.Scheme) error {
	for _, options := range []runtime.Object{
		&corev1.PodLogOptions{}, &corev1.PodExecOptions{}, &corev1.PodAttachOptions{}, &corev1.PodPortForwardOptions{},
		&corev1.PodProxyOptions{}, &corev1.NodeProxyOptions{}, &corev1.ServiceProxyOptions{},
	} {
		convert := func(in, out any, _ conversion.Scope) error {
			return fromQuery(*in.(*url.Values), reflect.ValueOf(out).Elem())
		}
		if err := s.AddConversionFunc((*url.Values)(nil), options, convert); err != nil {
			return fmt.Errorf("register query parameters of %T: %w", options, err)
		}
	}
	return nil
}

// fromQuery sets the fields of an options struct from parameters of their JSON names.
func fromQuery(query url.Values, out reflect.Value) error {
	for i := range out.NumField() {
		name, _, _ := strings.Cut(out.Type().Field(i).Tag.Get("json"), ",")
		values, given := query[name]
		if name == "" || !given || len(values) == 0 {
			continue
		}
		if err := fromParameter(values, out.Field(i)); err != nil {
			return fmt.Errorf("parameter %s=%q: %w", name, values, err)
		}
	}
	return nil
}

func fromParameter(values []string, field reflect.Value) error {
	switch field.Kind() {
	case reflect.Pointer:
		if values[0] == "" {
			return nil
		}
		value := reflect.New(field.Type().Elem())
		if err := fromParameter(values, value.Elem()); err != nil {
			return err
		}
		field.Set(value)
	case reflect.Slice:
		list := reflect.MakeSlice(field.Type(), 0, len(values))
		for _, v := range values {
			element := reflect.New(field.Type().Elem()).Elem()
			if err := fromParameter([]string{v}, element); err != nil {
				return err
			}
			list = reflect.Append(list, element)
		}
		field.Set(list)
	case reflect.String:
		field.SetString(values[0])
	case reflect.Bool:
		// As everywhere in the API, a parameter that is present and not "0" or "false" is true.
		field.SetBool(values[0] != "0" && !strings.EqualFold(values[0], "false"))
	case reflect.Int32, reflect.Int64:
		n, err := strconv.ParseInt(values[0], 10, field.Type().Bits())
		if err != nil {
			return err
		}
		field.SetInt(n)
	default:
		if field.Type() != reflect.TypeFor[metav1.Time]() {
			return fmt.Errorf("parameters cannot set a %s", field.Type())
		}
		t, err := time.Parse(time.RFC3339, values[0])
		if err != nil {
			return err
		}
		field.Set(reflect.ValueOf(metav1.NewTime(t)))
	}
	return nil
}
