// Package pulled remembers with which logins images came to this machine, so that a pod gets only what it could pull
// itself (KEP-2535, as it is unless configured otherwise: images nobody pulled, imported ones, are everybody's).
//
// In:       each pull and what it was let in with; the logins of a pod.
// Out:      whether the pod may have an image that is here.
// Promise:  a crash during a pull leaves an image that asks for a login, never one that is open by mistake.
// Not here: pulling, and where logins come from (workloads/agent/credentials).
package pulled

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"knarr.dev/knarr/bootstrap/durable"
	"knarr.dev/knarr/workloads/agent/credentials"
)

// Records are files: one for each image that was pulled, and one for each name that is being pulled.
type Records struct {
	dir string
	mu  sync.Mutex
}

// record is what is known of an image.
type record struct {
	Image string            `json:"image"` // its id
	Names map[string]access `json:"names"` // by name without tag and digest, because registries let people in by it
}

// access is who may have an image under a name: everybody, or who proves to have what let it in.
type access struct {
	Open   bool    `json:"open,omitempty"`
	Proofs []proof `json:"proofs,omitempty"`
}

type proof struct {
	From credentials.Source `json:"from"`
	Hash string             `json:"hash"`
}

// In keeps the records in a folder, which is made when the first image is pulled.
func In(dir string) *Records { return &Records{dir: dir} }

// NeedsLogin says whether an image that is here is only for who has a login; name has no tag and no digest.
func (r *Records) NeedsLogin(image, name string) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	known, there, err := r.read(image)
	if err != nil {
		return true, err
	}
	return needsLogin(known, there, r.isPulling(name), name), nil
}

func needsLogin(known record, there, pulling bool, name string) bool {
	if !there {
		return pulling // by a pull that was cut short; otherwise it was imported
	}
	return !known.Names[name].Open
}

// Allows says whether one of the logins is as good as those the image was pulled with: the same Secret or ServiceAccount,
// or the same words. A Secret of the same name that holds other words now proves nothing.
func (r *Records) Allows(image, name string, logins []credentials.Login) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	known, _, err := r.read(image)
	return err == nil && allows(known.Names[name], logins), err
}

func allows(a access, logins []credentials.Login) bool {
	return a.Open || slices.ContainsFunc(logins, func(l credentials.Login) bool {
		return slices.ContainsFunc(a.Proofs, func(p proof) bool {
			return p.Hash == l.Hash() || p.From.Kind == credentials.Account && p.From == l.From
		})
	})
}

// Pulling is noted before a pull begins; Failed takes it back.
func (r *Records) Pulling(name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.save(r.intent(name), []byte(name))
}

// Failed ends what Pulling began: nothing came.
func (r *Records) Failed(name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return ignoreMissing(os.Remove(r.intent(name)))
}

// Pulled notes that an image came by name with a login, nil for none.
func (r *Records) Pulled(image, name string, login *credentials.Login) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	known, _, err := r.read(image)
	if err != nil {
		known = record{} // unreadable: begin anew, stricter than before
	}
	text, err := json.Marshal(with(known, image, name, login))
	if err != nil {
		return err
	}
	if err := r.save(r.file(image), text); err != nil {
		return err
	}
	return ignoreMissing(os.Remove(r.intent(name)))
}

func with(known record, image, name string, login *credentials.Login) record {
	next := record{Image: image, Names: map[string]access{}}
	for other, a := range known.Names {
		next.Names[other] = a
	}
	a := next.Names[name]
	switch {
	case a.Open, login == nil, login.From.Kind == credentials.Machine:
		a = access{Open: true}
	default:
		p := proof{From: login.From, Hash: login.Hash()}
		proofs := slices.DeleteFunc(slices.Clone(a.Proofs), func(old proof) bool { return old.From == p.From })
		a.Proofs = append(proofs, p)
	}
	next.Names[name] = a
	return next
}

// Keep forgets images that are not here any more: an image that is imported later is nobody's secret.
func (r *Records) Keep(images []string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	files, err := filepath.Glob(filepath.Join(r.dir, "image-*"))
	if err != nil {
		return err
	}
	here := map[string]bool{}
	for _, image := range images {
		here[r.file(image)] = true
	}
	var errs []error
	for _, file := range files {
		if !here[file] {
			errs = append(errs, ignoreMissing(os.Remove(file)))
		}
	}
	return errors.Join(errs...)
}

func (r *Records) read(image string) (known record, there bool, err error) {
	text, err := os.ReadFile(r.file(image))
	if errors.Is(err, fs.ErrNotExist) {
		return known, false, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &known)
	}
	if err != nil {
		return record{}, true, fmt.Errorf("read who may have image %s: %w", image, err)
	}
	return known, true, nil
}

func (r *Records) save(file string, text []byte) error {
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return fmt.Errorf("make the folder of image records: %w", err)
	}
	return durable.Write(file, text, 0o600)
}

func (r *Records) isPulling(name string) bool {
	_, err := os.Lstat(r.intent(name))
	return err == nil
}

func (r *Records) file(image string) string  { return filepath.Join(r.dir, "image-"+hash(image)) }
func (r *Records) intent(name string) string { return filepath.Join(r.dir, "pulling-"+hash(name)) }

func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
