package warm

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox/internal/guest/rawio"
)

// userSites says how the user's own package directories look now: an
// interpreter reads them when it starts, so one that started before a change is
// out of date.
func (p *Python) userSites() string {
	home, _ := lookup(p.opts.Env, "HOME")
	lib := filepath.Join(home, ".local", "lib")
	dir, err := unix.Open(lib, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(dir)
	const most = 64 // the user may have made any number of them
	var names []string
	err = rawio.ReadNames(dir, func(name string) bool {
		names = append(names, name)
		return len(names) < most
	})
	if err != nil {
		return "unreadable"
	}
	slices.Sort(names)
	var b strings.Builder
	for _, name := range names {
		var st unix.Stat_t
		if unix.Stat(filepath.Join(lib, name, "site-packages"), &st) == nil {
			fmt.Fprintf(&b, "%s %d %d %d\n", name, st.Ino, st.Mtim.Nano(), st.Ctim.Nano())
		}
	}
	return b.String()
}
