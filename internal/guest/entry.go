package guest

import (
	"bytes"
	"path"
	"strings"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

// latestTime bounds the times that the host shows: RFC 3339 has four digits for
// the year, and the user can set any time on a file.
var latestTime = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC).Unix()

// pathInfo checks an entry and turns it into what is at p.
func (e Entry) pathInfo(p string) (agentsandbox.PathInfo, error) {
	kind := agentsandbox.PathKind(e.Kind)
	switch kind {
	case agentsandbox.PathFile, agentsandbox.PathDirectory, agentsandbox.PathOther:
		if len(e.Target) > 0 {
			return agentsandbox.PathInfo{}, breach("%q is no link and has a target", p)
		}
	case agentsandbox.PathSymlink:
		if len(e.Target) > agentsandbox.MaxPathBytes || bytes.IndexByte(e.Target, 0) >= 0 {
			return agentsandbox.PathInfo{}, breach("the link %q has an impossible target", p)
		}
	default:
		return agentsandbox.PathInfo{}, breach("unknown kind %q", e.Kind)
	}
	switch {
	case e.Size < 0:
		return agentsandbox.PathInfo{}, breach("%q has a negative size", p)
	case e.Mode > 0o7777:
		return agentsandbox.PathInfo{}, breach("%q has mode %o", p, e.Mode)
	case e.Nsec < 0 || e.Nsec >= int64(time.Second):
		return agentsandbox.PathInfo{}, breach("%q has an impossible time", p)
	}
	return agentsandbox.PathInfo{
		Path:       p,
		Kind:       kind,
		SizeBytes:  e.Size,
		Mode:       e.Mode,
		ModifiedAt: time.Unix(min(max(e.Sec, 0), latestTime), e.Nsec).UTC(),
		Target:     string(e.Target),
	}, nil
}

// checkName rejects what cannot be a name in a directory.
func checkName(name []byte) error {
	switch {
	case len(name) == 0 || len(name) > agentsandbox.MaxFilenameBytes:
		return breach("a name of %d bytes", len(name))
	case bytes.ContainsAny(name, "/\x00") || string(name) == "." || string(name) == "..":
		return breach("%q is not the name of a file", name)
	}
	return nil
}

// checkCollected rejects what cannot be a file that a run made below one of
// dirs, which are clean.
func checkCollected(p string, dirs []string) error {
	if len(p) > agentsandbox.MaxPathBytes || strings.IndexByte(p, 0) >= 0 || path.Clean(p) != p {
		return breach("%q is not a clean path", p)
	}
	for _, dir := range dirs {
		if strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/") {
			return nil
		}
	}
	return breach("%q is in no directory that was asked for", p)
}
