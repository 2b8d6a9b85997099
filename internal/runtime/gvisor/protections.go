package gvisor

// Protection is one thing that stands between user code and the host, or between
// two sandboxes.
type Protection struct {
	Name   string `json:"name"`
	Detail string `json:"detail"`
}

// Protections lists what is in force for every sandbox: what this package does
// on the host, then the rules of the spec.
func Protections(platform string) []Protection {
	all := []Protection{
		{"own kernel", "system calls of a sandbox are served by gVisor (platform " + platform + "), a kernel in user space with a process of its own per sandbox; none reaches the host's kernel directly"},
		{"seccomp", "gVisor's process may use only the host's system calls that it needs"},
		{"nobody", "that process is the user nobody in a user namespace of its own, without capabilities, with an empty root file system, and without /proc"},
		{"no network of the host", "it is in a network namespace of its own without interfaces; a network device inside, if there is one, ends in the server, which decides about each connection"},
		{"no shared files", "nothing of the host's files is opened for it but the template's image, read-only, and no file server runs beside it"},
		{"nothing inherited", "no descriptor, environment variable or standard stream of the server's reaches it; one socket connects it with the server"},
		{"limits", "memory, swap, processors and tasks are bounded by control groups that the process joins as its first act; every limit is read back, and a sandbox without its limits is not used"},
		{"used once", "a sandbox comes fresh from a snapshot, serves one tenant, and is destroyed with everything in it; host name, machine id and random numbers are its own"},
	}
	for _, r := range rules() {
		all = append(all, Protection{r.name, r.protects})
	}
	return all
}
