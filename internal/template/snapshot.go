package template

// Snapshot returns the name of the snapshot that has nothing loaded ahead. It is
// the template's own.
func (d Definition) Snapshot() string { return d.Name }

// SnapshotWith returns the name of the snapshot that has a set of Preloads loaded.
// No template has such a name, because "+" is not part of any.
func (d Definition) SnapshotWith(set string) string { return d.Name + "+" + set }

// Modules returns what is loaded in a snapshot of the template; ok says that the
// template has a snapshot of that name.
func (d Definition) Modules(snapshot string) (modules []string, ok bool) {
	if snapshot == d.Snapshot() {
		return nil, true
	}
	for _, set := range d.Preloads {
		if snapshot == d.SnapshotWith(set.Name) {
			return set.Modules, true
		}
	}
	return nil, false
}
