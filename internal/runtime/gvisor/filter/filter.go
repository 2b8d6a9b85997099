// Package filter has the system call filter of a sandbox's process ready, so that
// it does not have to be worked out at every start, which takes a tenth of the
// processor time of one.
//
// The filter is gVisor's, for the settings that sandboxes have here: [Compile]
// asks gVisor for its rules and compiles them, the result is kept in the source,
// and [Register] hands it to gVisor in the sandbox's process. The tests compile
// anew and compare with what gVisor makes in a process of its own. If settings and
// filter do not fit each other, gVisor finds none that is ready and works it out.
package filter

import (
	"fmt"
	"os"
	"reflect"
	_ "unsafe" // for go:linkname

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/bpf"
	"gvisor.dev/gvisor/pkg/seccomp"
	"gvisor.dev/gvisor/pkg/seccomp/precompiledseccomp"
	"gvisor.dev/gvisor/pkg/sentry/platform"
	"gvisor.dev/gvisor/pkg/sentry/platform/systrap"
	"gvisor.dev/gvisor/runsc/boot/filter"
	"gvisor.dev/gvisor/runsc/boot/filter/config"
)

//go:generate go run ./generate

// ready is where gVisor looks for filters. In its own build a generated file
// fills it; that file is not part of the Go module.
//
//go:linkname ready gvisor.dev/gvisor/runsc/boot/filter.precompiledPrograms
var ready map[string]precompiledseccomp.Program

// Register hands the filter to gVisor. It is called once, in the process of a
// sandbox, before gVisor starts.
func Register() {
	filter.ListPrecompiled() // the first use makes the map empty
	for _, p := range programs {
		ready[p.Name] = p
	}
}

// Program is the filter as gVisor installs it: in a process with the number pid,
// whose control server listens on the descriptor controller. It is nil where none
// is ready. Of use to tests.
func Program(pid uint64, controller uint32) ([]bpf.Instruction, error) {
	for _, p := range programs {
		opts := options(nil)
		if p.Name != opts.ConfigKey() {
			continue
		}
		values := opts.Vars()
		values.SetUint64(selfPID, pid)
		values[controllerFD] = controller
		return p.RenderInstructions(values)
	}
	return nil, nil
}

// Names of gVisor's variables: values in a filter that each process has its own
// of.
const (
	controllerFD = "controller_fd"
	selfPID      = "self_pid" // 64 bits, in two variables
)

// Compile makes the filter from the rules of the gVisor that is linked in.
func Compile() (precompiledseccomp.Program, error) {
	opts := options(nil)
	var names []string
	for name := range opts.Vars() {
		names = append(names, name)
	}
	var failed error
	program, err := precompiledseccomp.Precompile(opts.ConfigKey(), names, func(values precompiledseccomp.Values) *seccomp.Program {
		opts := options(values)
		rules, denied := config.Rules(opts)
		if err := replacePID(rules, values.GetUint64(selfPID)); err != nil {
			failed = err
		}
		return &seccomp.Program{
			RuleSets: []seccomp.RuleSet{{Rules: denied.Copy()}, {Rules: rules, Action: seccomp.Allow}},
			Options:  config.SeccompOptions(opts),
		}
	})
	if failed != nil {
		return program, failed
	}
	return program, err
}

// options are those that gVisor derives from the settings of sandboxes. values,
// if any, take the place of the process's own.
func options(values precompiledseccomp.Values) filter.Options {
	return filter.Options{
		Platform:     withValues{(*systrap.Systrap)(nil).SeccompInfo(), values},
		ControllerFD: values[controllerFD],
	}
}

// withValues is a platform whose variables have certain values. They come last
// when gVisor collects values, so they replace those of the process as well.
type withValues struct {
	platform.SeccompInfo
	values precompiledseccomp.Values
}

// Variables implements platform.SeccompInfo.
func (p withValues) Variables() precompiledseccomp.Values {
	if p.values == nil {
		return p.SeccompInfo.Variables()
	}
	return p.values
}

// replacePID makes one rule use the variable for the process's number. gVisor
// takes the number of the process that compiles, which is another than that of
// the one to be filtered.
func replacePID(rules seccomp.SyscallRules, pid uint64) error {
	const call = unix.SYS_RT_TGSIGQUEUEINFO
	rule := func(pid uint64) seccomp.SyscallRule {
		return seccomp.PerArg{seccomp.EqualTo(pid), seccomp.AnyValue{}, seccomp.EqualTo(unix.SIGKILL)}
	}
	if got, want := rules.Get(call), rule(uint64(os.Getpid())); !reflect.DeepEqual(got, want) {
		return fmt.Errorf("the rule for rt_tgsigqueueinfo is %v, and not %v: this gVisor has other rules, see to it that none has the number of the compiling process", got, want)
	}
	rules.Remove(call)
	rules.Set(call, rule(pid))
	return nil
}
