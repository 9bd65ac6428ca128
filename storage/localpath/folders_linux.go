package localpath

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"

	"k8s.io/apimachinery/pkg/util/validation"

	"knarr.dev/knarr/storage/tree"
)

// Prefix of the paths at which a node answers about its folders.
const Prefix = "/volumes/"

// Folders are the volumes that live on this node, each a folder of the volume's name.
type Folders struct {
	Root string
}

// made is a node's answer to a request for a folder.
type made struct {
	Path string `json:"path"`
}

// ServeHTTP makes the folder of a volume on PUT and deletes it with its content on DELETE, both any number of times.
// Who may ask is for the server to decide that this is a part of.
func (f Folders) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := r.URL.Path[min(len(Prefix), len(r.URL.Path)):]
	if len(validation.IsDNS1123Subdomain(name)) > 0 { // so it has no slash and no ".." either
		http.Error(w, fmt.Sprintf("%q is not the name of a volume", name), http.StatusBadRequest)
		return
	}
	var err error
	switch r.Method {
	case http.MethodPut:
		err = f.make(name)
	case http.MethodDelete:
		err = tree.Remove(filepath.Join(f.Root, name))
	default:
		w.Header().Set("Allow", "PUT, DELETE")
		http.Error(w, "a volume's folder is made by PUT and removed by DELETE", http.StatusMethodNotAllowed)
		return
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(made{Path: filepath.Join(f.Root, name)}) // who asked is gone, then
}

// make a folder that survives a power cut from now on. Everybody may write to it, because nobody knows as whom its pods
// will run; its parent lets nobody but root come near from outside of a container.
func (f Folders) make(name string) error {
	if err := os.MkdirAll(f.Root, 0o700); err != nil {
		return fmt.Errorf("make the folder of volumes: %w", err)
	}
	folder := filepath.Join(f.Root, name)
	err := os.Mkdir(folder, 0o777)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err == nil {
		err = os.Chmod(folder, 0o777) // whatever the umask
	}
	if err != nil {
		return fmt.Errorf("make a folder for volume %s: %w", name, err)
	}
	root, err := os.Open(f.Root)
	if err != nil {
		return fmt.Errorf("open the folder of volumes: %w", err)
	}
	defer root.Close()
	if err := root.Sync(); err != nil {
		return fmt.Errorf("sync the folder of volumes: %w", err)
	}
	return nil
}
