package hostile_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
)

// shape is as much of an OpenAPI v3 schema as mutations need.
type shape struct {
	Ref         string                                  `json:"$ref"`
	AllOf       []*shape                                `json:"allOf"`
	OneOf       []*shape                                `json:"oneOf"`
	Type        string                                  `json:"type"`
	Format      string                                  `json:"format"`
	Description string                                  `json:"description"`
	Properties  map[string]*shape                       `json:"properties"`
	Values      maybeShape                              `json:"additionalProperties"`
	Items       *shape                                  `json:"items"`
	Required    []string                                `json:"required"`
	Enum        []any                                   `json:"enum"`
	IntOrString bool                                    `json:"x-kubernetes-int-or-string"`
	Kinds       []struct{ Group, Version, Kind string } `json:"x-kubernetes-group-version-kind"`

	names []string // of the properties, in a fixed order: runs with a seed must be the same
	words []string // what the description and the enum say is meant
}

// maybeShape is a schema where true and false may stand as well.
type maybeShape struct{ *shape }

func (m *maybeShape) UnmarshalJSON(data []byte) error {
	switch string(bytes.TrimSpace(data)) {
	case "true":
		m.shape = &shape{}
		return nil
	case "false":
		return nil
	}
	return json.Unmarshal(data, &m.shape)
}

// document is the OpenAPI v3 document of a group and version.
type document struct {
	Components struct {
		Schemas map[string]*shape `json:"schemas"`
	} `json:"components"`
}

// of finds the schema of a kind.
func (d *document) of(group, version, kind string) (*shape, error) {
	for _, s := range d.Components.Schemas {
		for _, k := range s.Kinds {
			if k.Group == group && k.Version == version && k.Kind == kind {
				return s, nil
			}
		}
	}
	return nil, fmt.Errorf("the document of %s/%s has no %s", group, version, kind)
}

var quoted = regexp.MustCompile("[\"`']([A-Za-z0-9./_-]{1,60})[\"`']")

// resolve follows references; what it returns has words and names.
func (d *document) resolve(s *shape) *shape {
	for range 10 {
		next := s
		switch {
		case s == nil:
			return &shape{}
		case s.Ref != "":
			next = d.Components.Schemas[strings.TrimPrefix(s.Ref, "#/components/schemas/")]
		case len(s.AllOf) == 1 && s.Type == "" && len(s.Properties) == 0:
			next = s.AllOf[0]
		}
		if next == s {
			return s
		}
		s = next
	}
	return &shape{}
}

// prepare fills what is derived, once: a document is read by several tests side by side.
func (d *document) prepare() {
	for _, s := range d.Components.Schemas {
		d.prepareShape(s)
	}
}

func (d *document) prepareShape(s *shape) {
	if s == nil || s.names != nil || s.words != nil {
		return
	}
	s.names, s.words = sortedKeys(s.Properties), []string{}
	for _, value := range s.Enum {
		s.words = append(s.words, fmt.Sprint(value))
	}
	for _, match := range quoted.FindAllStringSubmatch(s.Description, -1) {
		s.words = append(s.words, match[1])
	}
	for _, property := range s.Properties {
		d.prepareShape(property)
	}
	d.prepareShape(s.Items)
	d.prepareShape(s.Values.shape)
	for _, part := range s.AllOf {
		d.prepareShape(part)
	}
}
