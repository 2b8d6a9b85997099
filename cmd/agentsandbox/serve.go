package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	goruntime "runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/audit"
	"github.com/agentsandbox/agentsandbox/internal/blob"
	"github.com/agentsandbox/agentsandbox/internal/config"
	"github.com/agentsandbox/agentsandbox/internal/egress/border"
	"github.com/agentsandbox/agentsandbox/internal/engine"
	"github.com/agentsandbox/agentsandbox/internal/engine/limits"
	"github.com/agentsandbox/agentsandbox/internal/engine/quota"
	"github.com/agentsandbox/agentsandbox/internal/engine/sessions"
	"github.com/agentsandbox/agentsandbox/internal/eventlog"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/edge"
	"github.com/agentsandbox/agentsandbox/internal/httpserver"
	"github.com/agentsandbox/agentsandbox/internal/idempotency"
	"github.com/agentsandbox/agentsandbox/internal/keys"
	"github.com/agentsandbox/agentsandbox/internal/pool"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
	"github.com/agentsandbox/agentsandbox/internal/store"
	"github.com/agentsandbox/agentsandbox/internal/template"
	"github.com/agentsandbox/agentsandbox/internal/vault"
)

const (
	// sandboxPrefix starts the ids of sandboxes on the host.
	sandboxPrefix = "sbx_"
	// answerGrace is how long answers may take to leave once nothing runs.
	answerGrace = 5 * time.Second
	// unwrittenBytes is how much output of all runs together stays in memory while the
	// disk takes none. The rest is counted as cut.
	unwrittenBytes = 128 << 20
)

// Names in the data directory, beside those of store and config.
const (
	blobsDir     = "blobs"
	sandboxesDir = "sandboxes"
	logsDir      = "logs"
	// formerSpoolDir is where earlier servers had the output of runs under way.
	formerSpoolDir = "spool"
)

// daemon is the server as a value: open makes it, run serves until its context
// ends, close releases what open took, last first.
type daemon struct {
	cfg         config.Config
	log         *slog.Logger
	stdout      io.Writer
	listener    net.Listener
	connections *httpserver.Listener
	store       *store.DB
	machine     machine
	pool        *pool.Pool
	network     *border.Border
	keys        *keys.Registry
	audit       *audit.Log
	egressAudit *audit.Egress
	requests    *idempotency.Requests
	engine      *engine.Engine
	handler     http.Handler
	adminKey    string // made by this start; else empty
	closers     []func() error
}

// service is agentsandbox.Service, put together from those who serve its parts.
type service struct {
	*engine.Engine
	agentsandbox.KeyService
	agentsandbox.AuditService
}

// serve runs the server until ctx ends.
func serve(ctx context.Context, cfg config.Config, log *slog.Logger, stdout io.Writer) error {
	return (&daemon{cfg: cfg, log: log, stdout: stdout}).serve(ctx, openGVisor)
}

func (d *daemon) serve(ctx context.Context, open machineOpener) (err error) {
	defer func() { err = errors.Join(err, d.close()) }()
	if err := d.open(ctx, open); err != nil {
		return err
	}
	return d.run(ctx)
}

// open takes the data directory and the address, brings the past in order, and
// wires the parts. Nothing is served yet, and nothing of the past is watched or
// ended: should it fail, that is left as it is for the next start.
func (d *daemon) open(ctx context.Context, openMachine machineOpener) error {
	var err error
	if d.store, err = store.Open(ctx, d.cfg.DataDir, store.Options{Log: d.log}); err != nil {
		return err
	}
	d.onClose(d.store.Close)
	blobs, err := blob.Open(filepath.Join(d.cfg.DataDir, blobsDir), d.log)
	if err != nil {
		return err
	}
	logs, err := eventlog.Open(filepath.Join(d.cfg.DataDir, logsDir), eventlog.Options{UnwrittenBytes: unwrittenBytes})
	if err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(d.cfg.DataDir, formerSpoolDir)); err != nil {
		return err
	}
	if d.listener, d.connections, err = listen(d.cfg, d.log); err != nil {
		return err
	}
	d.onClose(func() error { _ = d.listener.Close(); return nil }) // the server has closed it, if it ran
	seals, err := vault.Open(d.cfg.DataDir)
	if err != nil {
		return err
	}
	env, err := d.cfg.Env()
	if err != nil {
		return err
	}
	if err := d.openNetwork(); err != nil {
		return err
	}
	if d.machine, err = openMachine(d.cfg, d.network.Network(), d.log); err != nil {
		return err
	}
	d.onClose(d.machine.Close)
	serverLimits, def := engineLimits(d.cfg), template.Default()
	d.pool = pool.New(pool.Options{
		Runtime: d.machine, NewID: func() string { return agentsandbox.NewID(sandboxPrefix) },
		Stocks: stocks(d.cfg, def), Builders: goruntime.NumCPU(), Max: d.cfg.MaxSandboxes, Wait: time.Duration(d.cfg.QueueTimeoutMS) * time.Millisecond, Waiting: d.cfg.MaxQueue,
		Budget: d.cfg.HostMemoryMB << 20, ReservePercent: d.cfg.ReservePercent, ReserveMin: d.cfg.ReserveMinMB << 20, StockMemory: stockMemory(d.cfg), MemoryUse: d.machine.MemoryUse,
		Limits: serverLimits.Default(), Network: hasNetwork(d.cfg), Logger: d.log,
	})
	d.audit = audit.New(audit.Options{Store: d.store, Vault: seals, Logger: d.log})
	d.egressAudit = audit.NewEgress(d.audit, d.network)
	d.keys = keys.New(keys.Options{Store: d.store, Audit: d.audit, Vault: seals, Logger: d.log})
	quotas := quota.New(quotas(d.cfg), d.store, logs, d.log)
	d.requests = idempotency.New(idempotency.Options{Store: d.store, Quotas: quotas, Logger: d.log})
	d.engine = engine.New(engine.Options{
		Store: d.store, Blobs: blobs, Logs: logs, Sandboxes: d.pool, Keys: d.keys, Audit: d.audit, EgressAudit: d.egressAudit, Template: def.Name, Templates: engineTemplates(d.cfg, def),
		Network: d.network, Vault: seals, SandboxEnv: env,
		KeepSessions: d.cfg.OnShutdown == config.OnShutdownKeep,
		Limits:       serverLimits, Quotas: quotas, Ports: portLimits(d.cfg), Lifetimes: lifetimes(d.cfg), Kept: kept(d.cfg),
		AnswerStatus: edge.Status, Logger: d.log,
	})
	if err := d.bootstrap(ctx); err != nil {
		return err
	}
	metrics := registry(d.pool, append(admissionMetrics(d.pool, d.machine, d.cfg), append(d.network.Collectors(), d.connections.Collectors()...)...)...)
	if d.handler, err = d.surfaces(metrics); err != nil {
		return err
	}
	return d.recover(ctx)
}

// bootstrap makes the first key and leaves it where the command line finds it.
func (d *daemon) bootstrap(ctx context.Context) error {
	key, err := d.keys.Bootstrap(ctx, d.cfg.BootstrapKey.Reveal())
	if err != nil || key == "" {
		return err
	}
	if d.cfg.BootstrapKey == "" {
		d.adminKey = key
	}
	return config.WriteAdminKey(d.cfg.DataDir, key)
}

// run serves, first without sandboxes, until ctx ends or something breaks; then
// it drains.
func (d *daemon) run(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	d.engine.Start()
	d.requests.Start()
	d.egressAudit.Start()
	server := httpserver.New(d.handler, d.log)
	served := make(chan struct{})
	go func() {
		defer close(served)
		if err := server.Serve(d.listener); !errors.Is(err, http.ErrServerClosed) {
			stop(err)
		}
	}()
	d.log.Info("listening", "address", d.listener.Addr().String())
	prepared := make(chan struct{})
	go func() {
		defer close(prepared)
		if err := d.prepare(ctx); err != nil && ctx.Err() == nil {
			stop(err)
		}
	}()
	<-ctx.Done()
	failure := context.Cause(ctx)
	if errors.Is(failure, context.Canceled) {
		failure = nil
	}
	if failure != nil {
		d.engine.KeepSessions()
	}
	<-prepared
	d.drain(server)
	<-served
	return failure
}

// prepare makes what sandboxes start from, if it is missing, and fills the pool.
func (d *daemon) prepare(ctx context.Context) error {
	if err := d.machine.Prepare(ctx); err != nil {
		return err
	}
	d.pool.Start()
	for d.pool.Ready() != nil {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(10 * time.Millisecond):
		}
	}
	return d.welcome()
}

// welcome prints what a person needs to begin.
func (d *daemon) welcome() error {
	scheme := "http"
	if d.cfg.TLSCert != "" {
		scheme = "https"
	}
	url := fmt.Sprintf("%s://%s", scheme, d.listener.Addr())
	text := "\nAgent Sandbox is ready on " + url + "\n"
	if d.adminKey != "" {
		text += fmt.Sprintf("\nThe admin key, shown this once (it stands in %s):\n\n    %s\n", d.cfg.AdminKeyPath(), d.adminKey)
	}
	text += fmt.Sprintf("\nA first request:\n\n    curl -s %s/v1/execute -H \"Authorization: Bearer $(cat %s)\" -d '{\"code\": \"print(1 + 1)\"}'\n\nDocuments: %s/docs\n",
		url, d.cfg.AdminKeyPath(), url)
	_, err := io.WriteString(d.stdout, text)
	return err
}

// drain lets running executions end within the grace period, then ends them,
// and sends the last answers.
func (d *daemon) drain(server *http.Server) {
	d.log.Info("shutting down", "grace_ms", d.cfg.ShutdownGraceMS)
	grace := time.Duration(d.cfg.ShutdownGraceMS) * time.Millisecond
	ctx, cancel := context.WithTimeout(context.Background(), grace+answerGrace)
	defer cancel()
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		if err := server.Shutdown(ctx); err != nil {
			d.log.Warn("connections were cut", "error", err)
			_ = server.Close()
		}
	}()
	running, cancelRunning := context.WithTimeout(ctx, grace)
	defer cancelRunning()
	context.AfterFunc(running, d.requests.Stop) // what runs is cancelled then
	d.engine.Close(running)
	d.requests.Stop()
	d.egressAudit.Stop()
	<-closed
	// Last: all who use a key or append a row have ended.
	if err := errors.Join(d.keys.Close(), d.audit.Close()); err != nil {
		d.log.Error("closing the keys and the audit log", "error", err)
	}
	d.pool.Close()
}

func (d *daemon) onClose(f func() error) { d.closers = append(d.closers, f) }

func (d *daemon) close() error {
	var err error
	for i := len(d.closers) - 1; i >= 0; i-- {
		err = errors.Join(err, d.closers[i]())
	}
	d.closers = nil
	return err
}

// listen takes the address. connections is what the listener accepts from, beneath
// TLS.
func listen(cfg config.Config, log *slog.Logger) (l net.Listener, connections *httpserver.Listener, err error) {
	var certificates []tls.Certificate
	if cfg.TLSCert != "" {
		cert, err := tls.LoadX509KeyPair(cfg.TLSCert, cfg.TLSKey)
		if err != nil {
			return nil, nil, fmt.Errorf("tls_cert and tls_key: %w", err)
		}
		certificates = append(certificates, cert)
	}
	l, err = net.Listen("tcp", cfg.Listen)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: stop what listens there, or choose another address with --listen", err)
	}
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		return nil, nil, errors.Join(fmt.Errorf("listening on %s: it is a %T", cfg.Listen, l), l.Close())
	}
	connections = httpserver.NewListener(tcp, cfg.MaxConnections, certificates != nil, log)
	if certificates == nil {
		return connections, connections, nil
	}
	return tls.NewListener(connections, &tls.Config{Certificates: certificates, MinVersion: tls.VersionTLS12}), connections, nil
}

func engineLimits(cfg config.Config) limits.Limits {
	return limits.Limits{
		DefaultTimeout:  time.Duration(cfg.DefaultTimeoutMS) * time.Millisecond,
		MaxTimeout:      time.Duration(cfg.MaxTimeoutMS) * time.Millisecond,
		DefaultMemoryMB: cfg.DefaultMemoryMB, MaxMemoryMB: cfg.MaxMemoryMB,
		DefaultCPUs: cfg.DefaultCPUs, MaxCPUs: cfg.MaxCPUs,
		Tasks: cfg.MaxTasks, OutputBytes: cfg.MaxOutputBytes, CodeBytes: cfg.MaxCodeBytes, UploadBytes: cfg.MaxUploadBytes,
		Collect: runtime.CollectLimits{Files: cfg.MaxCollectFiles, Bytes: cfg.MaxCollectBytes, Depth: cfg.MaxCollectDepth, Time: time.Duration(cfg.MaxCollectMS) * time.Millisecond, Ignored: cfg.CollectIgnored == config.On},
		Guest: limits.Guest{
			DefaultProcesses: cfg.DefaultProcesses, MaxProcesses: cfg.MaxProcesses,
			DefaultOpenFiles: cfg.DefaultOpenFiles, MaxOpenFiles: cfg.MaxOpenFiles,
			DefaultDiskMB: cfg.DiskMB, MaxDiskMB: cfg.MaxDiskMB,
			DefaultInodes: cfg.DefaultInodes, MaxInodes: cfg.MaxInodes,
			DefaultCPUTime: time.Duration(cfg.DefaultCPUTimeMS) * time.Millisecond,
		},
		StreamBytes: cfg.MaxStreamBytes,
	}
}

func lifetimes(cfg config.Config) sessions.Lifetimes {
	return sessions.Lifetimes{
		Idle:    time.Duration(cfg.SessionIdleMS) * time.Millisecond,
		MaxIdle: time.Duration(cfg.MaxSessionIdleMS) * time.Millisecond,
		Age:     time.Duration(cfg.SessionLifetimeMS) * time.Millisecond,
		MaxAge:  time.Duration(cfg.MaxSessionLifetimeMS) * time.Millisecond,
	}
}

func kept(cfg config.Config) engine.Kept {
	return engine.Kept{
		Files:   time.Duration(cfg.FileRetentionMS) * time.Millisecond,
		Records: time.Duration(cfg.RecordRetentionMS) * time.Millisecond,
	}
}

// registry has the counters of the process and of the pool, and more.
func registry(p *pool.Pool, more ...prometheus.Collector) *prometheus.Registry {
	r := prometheus.NewRegistry()
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "agentsandbox", Name: name, Help: help}, value)
	}
	r.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		gauge("pool_size", "Warm sandboxes that the pool tries to keep.", func() float64 { return float64(p.Stats().Goal) }),
		gauge("sandboxes_ready", "Warm sandboxes that can be claimed now.", func() float64 { return float64(p.Stats().Ready) }),
		gauge("sandboxes_building", "Sandboxes that are being made.", func() float64 { return float64(p.Stats().Building) }),
		gauge("sandboxes_live", "Sandboxes that exist or are being made.", func() float64 { return float64(p.Live()) }),
		gauge("claims_waiting", "Requests that wait for a sandbox.", func() float64 { return float64(p.Stats().Waiting) }),
	)
	r.MustRegister(more...)
	return r
}
