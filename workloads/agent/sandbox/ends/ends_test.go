package ends

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestEndsAreReadUntilTheyAreOld(t *testing.T) {
	root, at := t.TempDir(), time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	note := func(bundle, id string, e End) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(root, bundle), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := Note(filepath.Join(root, bundle), id, e); err != nil {
			t.Fatal(err)
		}
	}
	note("one", "a1", End{Code: 0, At: at})
	note("one", "a2", End{Code: 3, At: at})
	note("two", "b1", End{Code: 137, At: at})
	old := time.Now().Add(-2 * kept)
	if err := os.Chtimes(filepath.Join(root, "one", Folder, "a1"), old, old); err != nil {
		t.Fatal(err)
	}
	note("one", "a3", End{Code: 4, At: at})
	if err := os.WriteFile(filepath.Join(root, "two", Folder, "b2"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := Read(filepath.Join(root, "*"))
	if err == nil {
		t.Error("Read() says nothing of the one that is no JSON")
	}
	want := map[string]End{"a2": {Code: 3, At: at}, "a3": {Code: 4, At: at}, "b1": {Code: 137, At: at}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Read() (-want +got):\n%s", diff)
	}
}

// TestReadOfAFolderThatIsNoPattern: whoever adds to what was read must find a map.
func TestReadOfAFolderThatIsNoPattern(t *testing.T) {
	if all, err := Read("["); all == nil || err == nil {
		t.Errorf("Read() = %v, %v; want none, and an error", all, err)
	}
}
