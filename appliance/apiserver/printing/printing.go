// Package printing makes the tables kubectl shows, a file a group.
//
// In:       objects and lists.
// Out:      a metav1.Table with the columns people know from Kubernetes, one convertor a kind.
// Promise:  a cell is a pure function of the object and the time; a list costs one pass.
// Not here: kinds without columns of their own, which show name and age (resource).
package printing

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apiserver/pkg/registry/rest"
)

// columns of one kind and how to fill them.
type columns[T runtime.Object] struct {
	definitions []metav1.TableColumnDefinition
	cells       func(obj T, now time.Time) []any
	unnamed     bool // the name is not the first cell
}

var _ rest.TableConvertor = columns[runtime.Object]{}

// table of a kind: its name first, then the given columns.
func table[T runtime.Object](cells func(obj T, now time.Time) []any, definitions ...metav1.TableColumnDefinition) rest.TableConvertor {
	name := metav1.TableColumnDefinition{Name: "Name", Type: "string", Format: "name", Description: metav1.ObjectMeta{}.SwaggerDoc()["name"]}
	return columns[T]{definitions: append([]metav1.TableColumnDefinition{name}, definitions...), cells: cells}
}

// unnamed is a table in which the name is not the first thing to know.
func unnamed[T runtime.Object](cells func(obj T, now time.Time) []any, definitions ...metav1.TableColumnDefinition) rest.TableConvertor {
	return columns[T]{definitions: definitions, cells: cells, unnamed: true}
}

func text(name, description string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: "string", Description: description}
}

func number(name, description string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: "integer", Description: description}
}

// wide columns are shown by kubectl get -o wide.
func wide(name, description string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: "string", Description: description, Priority: 1}
}

var age = text("Age", "How long ago the object was created.")

// ConvertToTable is what the library asks of a storage.
func (c columns[T]) ConvertToTable(_ context.Context, obj, options runtime.Object) (*metav1.Table, error) {
	made := &metav1.Table{}
	now := time.Now()
	add := func(item runtime.Object) error {
		typed, ok := item.(T)
		if !ok {
			return fmt.Errorf("print a table: expected a %T, got a %T", typed, item)
		}
		cells := c.cells(typed, now)
		if !c.unnamed {
			m, err := meta.Accessor(item)
			if err != nil {
				return fmt.Errorf("print a table: %w", err)
			}
			cells = append([]any{m.GetName()}, cells...)
		}
		made.Rows = append(made.Rows, metav1.TableRow{Cells: cells, Object: runtime.RawExtension{Object: item}})
		return nil
	}
	if meta.IsListType(obj) {
		made.Rows = make([]metav1.TableRow, 0, meta.LenList(obj))
		if err := meta.EachListItem(obj, add); err != nil {
			return nil, err
		}
		list, err := meta.ListAccessor(obj)
		if err != nil {
			return nil, fmt.Errorf("print a table: %w", err)
		}
		made.ResourceVersion, made.Continue, made.RemainingItemCount = list.GetResourceVersion(), list.GetContinue(), list.GetRemainingItemCount()
	} else {
		if err := add(obj); err != nil {
			return nil, err
		}
		common, err := meta.CommonAccessor(obj)
		if err != nil {
			return nil, fmt.Errorf("print a table: %w", err)
		}
		made.ResourceVersion = common.GetResourceVersion()
	}
	if o, ok := options.(*metav1.TableOptions); !ok || !o.NoHeaders {
		made.ColumnDefinitions = c.definitions
	}
	return made, nil
}

const (
	none    = "<none>"
	unknown = "<unknown>"
)

// since is how kubectl words an age.
func since(t metav1.Time, now time.Time) string {
	if t.IsZero() {
		return unknown
	}
	return duration.HumanDuration(now.Sub(t.Time))
}

func orNone(s string) string {
	if s == "" {
		return none
	}
	return s
}

func deref[V any](p *V) V {
	var zero V
	if p == nil {
		return zero
	}
	return *p
}

func selector(s *metav1.LabelSelector) string { return metav1.FormatLabelSelector(s) }
