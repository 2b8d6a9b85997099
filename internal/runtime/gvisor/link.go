package gvisor

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/urpc"
	"gvisor.dev/gvisor/runsc/boot"

	"github.com/agentsandbox/agentsandbox/internal/runtime"
	"github.com/agentsandbox/agentsandbox/internal/runtime/gvisor/birth"
)

// deviceName is what a sandbox's network device is called inside.
const deviceName = "eth0"

// connect makes the machine's link.
func (m *machine) connect(r *Runtime) error {
	if r.opts.Network == nil {
		return fmt.Errorf("sandbox %s: it should have a network, and this server has none to give", m.id)
	}
	link, err := r.opts.Network.Connect(m.id)
	if err != nil {
		return err
	}
	m.link = link
	return nil
}

// withDevice calls f with the sandbox's end of the link, as gVisor wants it, and
// closes it here. Without a link it is nil, and gVisor makes a loopback device.
func (m *machine) withDevice(f func(*boot.CreateLinksAndRoutesArgs) error) error {
	if m.link == nil {
		return f(nil)
	}
	device := m.link.Device()
	if device == nil {
		return fmt.Errorf("sandbox %s: its device was handed over before", m.id)
	}
	defer device.Close()
	return f(deviceArguments(m.link.Interface(), device))
}

// deviceArguments describe a sandbox's devices: loopback and the link.
func deviceArguments(i runtime.Interface, device *os.File) *boot.CreateLinksAndRoutesArgs {
	link := boot.FDBasedLink{
		Name: deviceName, MTU: i.MTU, NumChannels: 1,
		// Nothing between the ends can damage a packet.
		TXChecksumOffload: true, RXChecksumOffload: true,
	}
	for _, a := range i.Addresses {
		link.Addresses = append(link.Addresses, boot.IPWithPrefix{Address: a.Addr().AsSlice(), PrefixLen: a.Bits()})
		subnet := a.Masked()
		link.Routes = append(link.Routes, boot.Route{Destination: net.IPNet{
			IP: subnet.Addr().AsSlice(), Mask: net.CIDRMask(subnet.Bits(), subnet.Addr().BitLen()),
		}})
	}
	args := &boot.CreateLinksAndRoutesArgs{
		FilePayload:   urpc.FilePayload{Files: []*os.File{device}},
		LoopbackLinks: []boot.LoopbackLink{boot.DefaultLoopbackLink},
		FDBasedLinks:  []boot.FDBasedLink{link},
	}
	for _, gateway := range i.Gateways {
		all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		route := &args.Defaultv4Gateway
		if gateway.Is6() {
			all, route = netip.PrefixFrom(netip.IPv6Unspecified(), 0), &args.Defaultv6Gateway
		}
		*route = boot.DefaultRoute{Name: deviceName, Route: boot.Route{
			Destination: net.IPNet{IP: all.Addr().AsSlice(), Mask: net.CIDRMask(0, all.Addr().BitLen())},
			Gateway:     gateway.AsSlice(),
		}}
	}
	return args
}

// resolver is the address of the sandbox's DNS server; "" without a link.
func (m *machine) resolver() string {
	if m.link == nil {
		return ""
	}
	return m.link.Interface().Resolver.String()
}

// linkInode names the daemon's end of the link for as long as anybody has it
// open; 0 without a link.
func (m *machine) linkInode() (uint64, error) {
	if m.link == nil {
		return 0, nil
	}
	f, err := m.link.Duplicate()
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return socketInode(f)
}

func socketInode(f *os.File) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0, fmt.Errorf("link: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return 0, errors.New("link: the file is not a socket")
	}
	return st.Ino, nil
}

// adoptLink makes the link of a sandbox of an earlier process work again: it
// takes the daemon's end out of the sandbox's process, which keeps it. p is the
// process of the record, proven to be it. The result is nil for a sandbox without
// a network.
//
// The process may have been taken over by what runs in it, and may hold out
// another file: only the socket that the record names is accepted.
func (r *Runtime) adoptLink(rec record, p *process) (runtime.Link, error) {
	if rec.Link == 0 {
		return nil, nil
	}
	if r.opts.Network == nil {
		return nil, fmt.Errorf("sandbox %s: it has a network, and this server has none to give", rec.ID)
	}
	host, err := p.descriptor(birth.KeptLinkFD)
	if err != nil {
		return nil, fmt.Errorf("network of sandbox %s: %w", rec.ID, err)
	}
	inode, err := socketInode(host)
	if err == nil && inode != rec.Link {
		err = errors.New("its process holds another socket in the place of the link")
	}
	if err != nil {
		host.Close()
		return nil, fmt.Errorf("network of sandbox %s: %w", rec.ID, err)
	}
	return r.opts.Network.Adopt(rec.ID, host)
}

// closeLink ends the daemon's part of the link. The sandbox's process, if it
// lives, keeps both ends for a later daemon.
func (m *machine) closeLink(r *Runtime) {
	if m.link == nil {
		return
	}
	if err := m.link.Close(); err != nil {
		r.log.Error("the network of a sandbox could not be closed", "sandbox", m.id, "error", err)
	}
}

// descriptor takes a copy of a descriptor out of the process.
func (p *process) descriptor(number int) (*os.File, error) {
	var (
		fd  int
		err error
	)
	closed := p.raw.Control(func(handle uintptr) {
		fd, err = unix.PidfdGetfd(int(handle), number, 0)
	})
	if err = errors.Join(closed, err); err != nil {
		return nil, fmt.Errorf("descriptor %d of process %d cannot be had: %w", number, p.pid, err)
	}
	return os.NewFile(uintptr(fd), "link"), nil
}
