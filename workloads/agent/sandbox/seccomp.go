package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// seccompNote is the annotation of containers that are confined by the runtime's own profile (translate.NoteSeccomp), which
// nobody wrote by hand.
const seccompNote = "knarr.dev/seccomp"

// needless are architectures whose calls no kernel of today answers. runc compiles a filter for each one of a profile, in
// every container and in everything run in one: without x32 that is 9 ms of a core less, of 19. A call of an architecture
// that is not in the profile ends the process.
var needless = []string{"SCMP_ARCH_X32"}

// trimSeccomp takes needless architectures out of the runtime's own profile.
func trimSeccomp(bundle string) error {
	path := filepath.Join(bundle, configFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil // runc says what that means
	}
	if err != nil {
		return err
	}
	var spec, linux, profile map[string]json.RawMessage
	var notes map[string]string
	var all []string
	for _, part := range []struct {
		of   func() json.RawMessage
		into any
	}{
		{func() json.RawMessage { return data }, &spec},
		{func() json.RawMessage { return spec["annotations"] }, &notes},
		{func() json.RawMessage { return spec["linux"] }, &linux},
		{func() json.RawMessage { return linux["seccomp"] }, &profile},
		{func() json.RawMessage { return profile["architectures"] }, &all},
	} {
		if raw := part.of(); raw != nil {
			if err := json.Unmarshal(raw, part.into); err != nil {
				return fmt.Errorf("read %s: %w", path, err)
			}
		}
	}
	wanted := slices.DeleteFunc(slices.Clone(all), func(a string) bool { return slices.Contains(needless, a) })
	if notes[seccompNote] == "" || len(wanted) == len(all) {
		return nil
	}
	for _, part := range []struct {
		of  map[string]json.RawMessage
		key string
		put any
	}{{profile, "architectures", wanted}, {linux, "seccomp", profile}, {spec, "linux", linux}} {
		raw, err := json.Marshal(part.put)
		if err != nil {
			return err
		}
		part.of[part.key] = raw
	}
	if data, err = json.Marshal(spec); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}
