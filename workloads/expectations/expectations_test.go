package expectations

import (
	"testing"
	"time"

	testclock "k8s.io/utils/clock/testing"
)

func TestMet(t *testing.T) {
	tests := map[string]struct {
		act  func(*Expectations, *testclock.FakePassiveClock)
		want bool
	}{
		"an owner nothing was written for is met": {
			act: func(*Expectations, *testclock.FakePassiveClock) {}, want: true,
		},
		"a creation holds its owner until the cache shows the child": {
			act: func(e *Expectations, _ *testclock.FakePassiveClock) { e.Creating("rs", "a") }, want: false,
		},
		"the child's event settles it": {
			act: func(e *Expectations, _ *testclock.FakePassiveClock) { e.Creating("rs", "a"); e.Created("rs", "a") }, want: true,
		},
		"another child's event does not": {
			act: func(e *Expectations, _ *testclock.FakePassiveClock) { e.Creating("rs", "a"); e.Created("rs", "b") }, want: false,
		},
		"a child that came and went settles its creation": {
			act: func(e *Expectations, _ *testclock.FakePassiveClock) { e.Creating("rs", "a"); e.Gone("rs", "a") }, want: true,
		},
		"another owner's writes do not matter": {
			act: func(e *Expectations, _ *testclock.FakePassiveClock) { e.Deleting("other", "a") }, want: true,
		},
		"a creation the cache does not show goes on holding its owner": {
			act: func(e *Expectations, c *testclock.FakePassiveClock) {
				e.Creating("rs", "a")
				c.SetTime(c.Now().Add(patience + time.Second))
			}, want: false,
		},
		"a deletion lost for good stops counting in the end": {
			act: func(e *Expectations, c *testclock.FakePassiveClock) {
				e.Deleting("rs", "a")
				c.SetTime(c.Now().Add(patience + time.Second))
			}, want: true,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			clock := testclock.NewFakePassiveClock(time.Unix(1000, 0))
			e := New(clock)
			tc.act(e, clock)
			met, again := e.Met("rs")
			if met != tc.want {
				t.Errorf("Met() = %v, want %v", met, tc.want)
			}
			if met == (again > 0) {
				t.Errorf("Met() = %v but asks to come again in %v", met, again)
			}
		})
	}
}

func TestDoubted(t *testing.T) {
	tests := map[string]struct {
		act  func(*Expectations, *testclock.FakePassiveClock)
		want int
	}{
		"a creation just made is beyond doubt": {act: func(*Expectations, *testclock.FakePassiveClock) {}},
		"one the cache has not shown for long is asked about": {want: 1, act: func(_ *Expectations, c *testclock.FakePassiveClock) {
			c.SetTime(c.Now().Add(doubtful))
		}},
		"one nobody answered is asked about at once": {want: 1, act: func(e *Expectations, _ *testclock.FakePassiveClock) { e.Doubt("rs", "a") }},
		"one the server vouches for is not": {act: func(e *Expectations, _ *testclock.FakePassiveClock) {
			e.Doubt("rs", "a")
			e.Made("rs", "a")
		}},
		"until that too is long ago": {want: 1, act: func(e *Expectations, c *testclock.FakePassiveClock) {
			e.Made("rs", "a")
			c.SetTime(c.Now().Add(doubtful))
		}},
		"one the cache shows before its answer fails is not": {act: func(e *Expectations, _ *testclock.FakePassiveClock) {
			e.Created("rs", "a")
			e.Doubt("rs", "a")
		}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			clock := testclock.NewFakePassiveClock(time.Unix(1000, 0))
			e := New(clock)
			e.Creating("rs", "a")
			tc.act(e, clock)
			if got := e.Doubted("rs"); len(got) != tc.want {
				t.Errorf("Doubted() = %v, want %d", got, tc.want)
			}
		})
	}
}
