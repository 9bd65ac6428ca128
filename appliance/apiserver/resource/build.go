package resource

import (
	"errors"
	"fmt"
	"runtime"
	"sync"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/rest"
)

// Built is what the table became: for each group and version, the storage behind every path.
type Built map[schema.GroupVersion]map[string]rest.Storage

// Build makes the storages of all rows. Stores come first, since everything else may ask for any of them.
func Build(env *Env, rows []Row) (Built, error) {
	if err := buildStores(env, rows); err != nil {
		return nil, err
	}
	built := Built{}
	for i := range rows {
		row := &rows[i]
		paths, err := build(env, row)
		if err != nil {
			return nil, fmt.Errorf("build %s: %w", row.GroupResource(), err)
		}
		for _, gv := range append([]schema.GroupVersion{row.In}, row.AlsoIn...) {
			if built[gv] == nil {
				built[gv] = map[string]rest.Storage{}
			}
			for path, storage := range paths {
				built[gv][path] = storage
			}
		}
	}
	env.built = built
	return built, nil
}

// buildStores works on several rows at once: each makes a watch cache with its own codecs.
func buildStores(env *Env, rows []Row) error {
	stores := make([]*Storage, len(rows))
	errs := make([]error, len(rows))
	slots := make(chan struct{}, runtime.GOMAXPROCS(0))
	var group sync.WaitGroup
	for i := range rows {
		if errs[i] = rows[i].Check(); errs[i] != nil || rows[i].Virtual != nil {
			continue
		}
		group.Add(1)
		go func() {
			defer group.Done()
			slots <- struct{}{}
			defer func() { <-slots }()
			stores[i], errs[i] = newStorage(env, &rows[i])
		}()
	}
	group.Wait()
	env.stores = map[schema.GroupResource]*Storage{}
	for i, store := range stores {
		if store != nil {
			env.stores[rows[i].GroupResource()] = store
		}
	}
	return errors.Join(errs...)
}

func build(env *Env, row *Row) (map[string]rest.Storage, error) {
	paths := map[string]rest.Storage{}
	store := env.stores[row.GroupResource()]
	switch {
	case row.Virtual != nil:
		storage, err := row.Virtual(env)
		if err != nil {
			return nil, err
		}
		paths[row.Plural] = storage
	case row.Wrap != nil:
		storage, err := row.Wrap(env, store)
		if err != nil {
			return nil, err
		}
		paths[row.Plural] = storage
	default:
		paths[row.Plural] = store
	}
	if row.Status {
		paths[row.Plural+"/status"] = store.status
	}
	if row.Scale != nil {
		paths[row.Plural+"/scale"] = &scaleStorage{store}
	}
	for name, make := range row.Subresources {
		storage, err := make(env, store)
		if err != nil {
			return nil, fmt.Errorf("subresource %s: %w", name, err)
		}
		paths[row.Plural+"/"+name] = storage
	}
	return paths, nil
}
