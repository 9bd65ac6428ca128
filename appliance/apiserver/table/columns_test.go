package table

import (
	"context"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// An object that says nothing must be printable too: its author may have been careless, and a list shows all.
func TestEveryTableFillsItsColumns(t *testing.T) {
	for _, row := range Rows() {
		if row.Table == nil {
			continue
		}
		t.Run(row.GroupResource().String(), func(t *testing.T) {
			made, err := row.Table.ConvertToTable(context.Background(), row.Object.DeepCopyObject(), &metav1.TableOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if cells, columns := len(made.Rows[0].Cells), len(made.ColumnDefinitions); cells != columns {
				t.Errorf("%d cells for %d columns", cells, columns)
			}
		})
	}
}

func TestEveryRowIsPossible(t *testing.T) {
	for _, row := range Rows() {
		if err := row.Check(); err != nil {
			t.Error(err)
		}
	}
}
