package scheme

import "testing"

func TestBuilds(t *testing.T) {}
