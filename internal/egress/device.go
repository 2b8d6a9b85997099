package egress

import (
	"errors"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// device is the daemon's end of a link, as an interface of a stack. gVisor has
// one for sockets too, which blocks a thread of the host for each; this one waits
// in Go's poller, so that idle links cost nothing.
//
// The sandbox's process holds a duplicate of the socket (so that a later daemon
// finds it there), so nothing is taken for granted that a duplicate can change:
// every call says itself that it must not block.
type device struct {
	file   *os.File
	raw    syscall.RawConn
	counts *counters
	rate   pace
	// broken hears of the error with which the reading ends by itself; nil: nobody.
	broken func(error)

	ended chan struct{} // closed when the reading has ended
	stop  chan struct{} // closed to end it

	mu         sync.RWMutex
	dispatcher stack.NetworkDispatcher
}

var _ stack.LinkEndpoint = (*device)(nil)

const (
	// frameBytes is the room for one frame: the largest IP packet there is, so that
	// none is cut off.
	frameBytes = 64 << 10
	// wholeFrame is from which size on, in bytes, a frame keeps the buffer that it
	// was read into; smaller ones are copied.
	wholeFrame = 8 << 10
	// shortPause is how long the reading pauses when the host has no memory for it.
	shortPause = 10 * time.Millisecond
)

// newDevice takes over a socket.
func newDevice(fd int, counts *counters) (*device, error) {
	if err := unix.SetNonblock(fd, true); err != nil { // or the poller does not take it
		unix.Close(fd)
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "link")
	raw, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return nil, err
	}
	return &device{file: file, raw: raw, counts: counts, ended: make(chan struct{}), stop: make(chan struct{})}, nil
}

// run reads frames and gives them to the stack until close is called or the
// socket breaks.
func (d *device) run() {
	defer close(d.ended)
	var spare *buffer.View
	defer func() {
		if spare != nil {
			spare.Release()
		}
	}()
	for {
		view, n, err := d.receive(spare)
		spare = view
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded): // end
			return
		case errors.Is(err, unix.ENOMEM), errors.Is(err, unix.ENOBUFS):
			// The host is short of memory for a moment.
			select {
			case <-d.stop:
				return
			case <-time.After(shortPause):
				continue
			}
		default:
			if d.broken != nil {
				d.broken(err)
			}
			return
		}
		d.counts.fromSandbox(n)
		what := inspect(spare.AsSlice()[:n])
		if what > deliver6 {
			d.counts.drop(what)
			if answer := nobody(spare.AsSlice()[:n]); answer != nil {
				_, _ = d.send([][]byte{answer}) // as lost as a packet can be
			}
		} else if n >= wholeFrame {
			spare.CapLength(n)
			d.deliver(what, spare)
			spare = nil
		} else {
			d.deliver(what, buffer.NewViewWithData(spare.AsSlice()[:n]))
		}
		if !d.rate.wait(d.stop) {
			return
		}
	}
}

// receive waits for a frame. While it waits, no buffer is held.
func (d *device) receive(spare *buffer.View) (view *buffer.View, n int, err error) {
	view = spare
	polled := d.raw.Read(func(fd uintptr) bool {
		for {
			if view == nil {
				view = buffer.NewViewSize(frameBytes)
			}
			n, _, err = unix.Recvfrom(int(fd), view.AsSlice(), unix.MSG_DONTWAIT)
			switch {
			case errors.Is(err, unix.EINTR):
				continue
			case errors.Is(err, unix.EAGAIN):
				view.Release()
				view = nil
				return false
			}
			return true
		}
	})
	if polled != nil {
		err = polled
	}
	return view, n, err
}

func (d *device) deliver(what verdict, view *buffer.View) {
	protocol := header.IPv4ProtocolNumber
	if what == deliver6 {
		protocol = header.IPv6ProtocolNumber
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithView(view)})
	defer pkt.DecRef()
	d.mu.RLock()
	to := d.dispatcher
	d.mu.RUnlock()
	if to != nil {
		to.DeliverNetworkPacket(protocol, pkt)
	}
}

// WritePackets implements stack.LinkWriter. A frame for which the sandbox has no
// room is lost, as on any cable: what cannot be lost is sent again.
func (d *device) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	list := pkts.AsSlice()
	for _, pkt := range list {
		n, err := d.send(pkt.AsSlices())
		if err != nil {
			d.counts.lost.Add(1)
			continue
		}
		d.counts.toSandbox(n)
	}
	return len(list), nil
}

func (d *device) send(parts [][]byte) (n int, err error) {
	const flags = unix.MSG_DONTWAIT | unix.MSG_NOSIGNAL
	closed := d.raw.Control(func(fd uintptr) {
		for {
			n, err = unix.SendmsgBuffers(int(fd), parts, nil, nil, flags)
			if !errors.Is(err, unix.EINTR) {
				return
			}
		}
	})
	return n, errors.Join(closed, err)
}

// end stops the reading and waits for it. The device can still send.
func (d *device) end() {
	close(d.stop)
	// The only thing a deadline can do to a read that waits is to end it.
	if err := d.file.SetReadDeadline(time.Unix(1, 0)); err != nil {
		d.file.Close()
	}
	<-d.ended
}

// MTU implements stack.NetworkLinkEndpoint.
func (d *device) MTU() uint32 { return linkMTU }

// SetMTU implements stack.NetworkLinkEndpoint.
func (d *device) SetMTU(uint32) {}

// MaxHeaderLength implements stack.NetworkLinkEndpoint.
func (d *device) MaxHeaderLength() uint16 { return 0 }

// LinkAddress implements stack.NetworkLinkEndpoint.
func (d *device) LinkAddress() tcpip.LinkAddress { return "" }

// SetLinkAddress implements stack.NetworkLinkEndpoint.
func (d *device) SetLinkAddress(tcpip.LinkAddress) {}

// Capabilities implements stack.NetworkLinkEndpoint: frames cannot change on the
// way, so neither end computes checksums.
func (d *device) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityRXChecksumOffload | stack.CapabilityTXChecksumOffload
}

// Attach implements stack.NetworkLinkEndpoint.
func (d *device) Attach(dispatcher stack.NetworkDispatcher) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dispatcher = dispatcher
}

// IsAttached implements stack.NetworkLinkEndpoint.
func (d *device) IsAttached() bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.dispatcher != nil
}

// Wait implements stack.NetworkLinkEndpoint. The link itself waits for run.
func (d *device) Wait() {}

// ARPHardwareType implements stack.NetworkLinkEndpoint.
func (d *device) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareNone }

// AddHeader implements stack.NetworkLinkEndpoint.
func (d *device) AddHeader(*stack.PacketBuffer) {}

// ParseHeader implements stack.NetworkLinkEndpoint.
func (d *device) ParseHeader(*stack.PacketBuffer) bool { return true }

// Close implements stack.NetworkLinkEndpoint. The link itself closes the socket.
func (d *device) Close() {}

// SetOnCloseAction implements stack.NetworkLinkEndpoint.
func (d *device) SetOnCloseAction(func()) {}

// pace bounds how many frames a second are read. A sandbox that sends more fills
// its own socket, and loses frames; the daemon's processors stay free for others.
type pace struct {
	frames int
	began  time.Time
}

const (
	// maxFrameRate is far above what useful traffic needs: a download at 1 GB/s is
	// less than a tenth of it.
	maxFrameRate = 200_000 // a second
	paceFrames   = 2048    // how many frames are counted together
)

// wait is called after each frame. It reports false if stop was closed.
func (p *pace) wait(stop <-chan struct{}) bool {
	if p.frames++; p.frames < paceFrames {
		return true
	}
	p.frames = 0
	const least = paceFrames * time.Second / maxFrameRate
	now := time.Now()
	early := least - now.Sub(p.began)
	if p.began.IsZero() || early <= 0 {
		p.began = now
		return true
	}
	timer := time.NewTimer(early)
	defer timer.Stop()
	select {
	case <-timer.C:
		p.began = time.Now()
		return true
	case <-stop:
		return false
	}
}
