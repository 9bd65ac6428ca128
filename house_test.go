package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "knarr.dev/knarr"

// above lists, for each top-level folder, the ones it may import beside itself. The data goes one way and so do
// imports; tests may import test/ from anywhere.
var above = map[string][]string{
	".":         {"appliance"},
	"appliance": {"workloads", "netstack", "storage", "bootstrap", "packaging"},
	"workloads": {"bootstrap"},
	"netstack":  {"bootstrap"},
	"storage":   {"bootstrap"},
	"packaging": {"netstack", "workloads"}, // the CNI client and the shim are programs of their own; their words are in netstack/cni and workloads/agent/sandbox
	"bootstrap": {},
	"test":      {"appliance", "workloads", "netstack", "storage", "bootstrap", "packaging"},
}

// source is one parsed Go file of the tree.
type source struct {
	path string // from the root of the tree, with slashes
	file *ast.File
}

func (s source) test() bool { return strings.HasSuffix(s.path, "_test.go") }

func (s source) imports(t *testing.T) []string {
	t.Helper()
	var list []string
	for _, spec := range s.file.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatalf("%s: %v", s.path, err)
		}
		list = append(list, p)
	}
	return list
}

func sources(t *testing.T) []source {
	t.Helper()
	var list []source
	set := token.NewFileSet()
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && p != "." || d.Name() == "testdata") {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(p, ".go") {
			return nil
		}
		file, err := parser.ParseFile(set, p, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		list = append(list, source{filepath.ToSlash(p), file})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func room(p string) string {
	first, _, nested := strings.Cut(p, "/")
	if !nested {
		return "."
	}
	return first
}

func TestImportsPointOneWay(t *testing.T) {
	for _, s := range sources(t) {
		from := room(s.path)
		allowed, known := above[from]
		if !known {
			t.Errorf("%s: top-level folder %q is not in the house's plan; add it to above with what it may import", s.path, from)
			continue
		}
		for _, p := range s.imports(t) {
			own, ok := strings.CutPrefix(p, module+"/")
			if !ok {
				continue
			}
			to := room(own + "/")
			if to == from || slices.Contains(allowed, to) || s.test() && to == "test" {
				continue
			}
			t.Errorf("%s imports %s: %s may import %v; declare an interface where it is needed and let appliance/machine fill it", s.path, p, from, allowed)
		}
	}
}

func TestForbiddenPackages(t *testing.T) {
	forbidden := map[string]string{
		"k8s.io/kubernetes":              "it is not a library; behaviour comes from the API documentation",
		"github.com/stretchr/testify":    "tests use testing and go-cmp",
		"github.com/onsi/ginkgo":         "tests use testing and go-cmp",
		"io/ioutil":                      "os and io have replaced it",
		"k8s.io/klog/v2/textlogger":      "log/slog is the one logger",
		"github.com/pkg/errors":          "fmt.Errorf wraps",
		"github.com/hashicorp/go-getter": "nothing is downloaded at run time",
	}
	for _, s := range sources(t) {
		for _, p := range s.imports(t) {
			for bad, why := range forbidden {
				if p == bad || strings.HasPrefix(p, bad+"/") {
					t.Errorf("%s imports %s: %s", s.path, p, why)
				}
			}
		}
		for _, name := range []string{"util", "utils", "common", "helpers", "types", "misc"} {
			if s.file.Name.Name == name {
				t.Errorf("%s: package %s says nothing about what is in it", s.path, name)
			}
		}
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	documented := map[string]bool{}
	for _, s := range sources(t) {
		if s.test() {
			continue
		}
		dir := path.Dir(s.path)
		documented[dir] = documented[dir] || s.file.Doc != nil && strings.TrimSpace(s.file.Doc.Text()) != ""
	}
	for dir, ok := range documented {
		if !ok {
			t.Errorf("package %s has no package comment (In, Out, Promise, Not here)", dir)
		}
	}
}

func TestOnlyMainEndsTheProcess(t *testing.T) {
	for _, s := range sources(t) {
		if s.path == "main.go" || s.test() || s.file.Name.Name == "main" {
			continue
		}
		content, err := os.ReadFile(s.path)
		if err != nil {
			t.Fatal(err)
		}
		for _, call := range []string{"os.Exit(", "log.Fatal(", "log.Fatalf(", "log.Fatalln(", "signal.Notify(", "klog.Fatal"} {
			if strings.Contains(string(content), call) {
				t.Errorf("%s uses %s: return an error; what exits can be neither tested nor unwound", s.path, strings.TrimSuffix(call, "("))
			}
		}
	}
}

func TestListsOfTheKernelAreWhole(t *testing.T) {
	for _, s := range sources(t) {
		if s.test() || path.Dir(s.path) == "netstack/dump" {
			continue
		}
		content, err := os.ReadFile(s.path)
		if err != nil {
			t.Fatal(err)
		}
		for _, list := range []string{"LinkList", "AddrList", "NeighList", "RouteList", "RouteListFiltered", "RuleList"} {
			if strings.Contains(string(content), "netlink."+list+"(") {
				t.Errorf("%s uses netlink.%s: it is an error whenever a pod comes or goes meanwhile; use netstack/dump", s.path, list)
			}
		}
	}
}

func TestTopLevelFoldersHaveAReadme(t *testing.T) {
	for dir := range above {
		if dir == "." {
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, "README.md")); err != nil {
			t.Errorf("%s: %v; say what comes in, what goes out, who owns the state and how to test it", dir, err)
		}
	}
}
