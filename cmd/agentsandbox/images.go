package main

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/cmd/agentsandbox/cli"
	"github.com/agentsandbox/agentsandbox/internal/config"
	"github.com/agentsandbox/agentsandbox/internal/guest/assets"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
	"github.com/agentsandbox/agentsandbox/internal/runtime/gvisor/snapshot"
	"github.com/agentsandbox/agentsandbox/internal/template"
)

// images are the templates of this machine, with the guest agent of this program
// in each.
type images struct {
	cache *template.Cache
	def   template.Definition
	extra []template.File
	// snapshots are what was made of images; those of a removed image go with it.
	snapshots *snapshot.Store

	// again makes what was lost with the cache directory; nil: nobody does.
	again func(ctx context.Context) error
	log   *slog.Logger

	mu      sync.Mutex
	current template.Image
	release func() // ends the hold on current; nil before prepare
	healing bool   // again is under way
	step    string // of a build that is under way
	stop    context.CancelFunc
	healed  sync.WaitGroup
}

func openImages(cfg config.Config, log *slog.Logger) (*images, error) {
	cache, err := template.NewCache(cfg.CacheDir, log)
	if err != nil {
		return nil, err
	}
	files, err := assets.Files()
	if err != nil {
		return nil, err
	}
	m := &images{cache: cache, def: template.Default(), snapshots: snapshot.Open(cfg.CacheDir), log: log}
	m.def.CABundle = cfg.CABundle
	for _, f := range files {
		m.extra = append(m.extra, template.File{Path: f.Path, Mode: f.Mode, Data: f.Data})
	}
	return m, nil
}

// prepare builds the default template if it is missing, and holds it.
func (m *images) prepare(ctx context.Context, progress func(line string)) error {
	image, err := m.build(ctx, progress)
	if err != nil {
		return err
	}
	release, err := image.Hold()
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.release != nil {
		m.release() // of what was lost
	}
	m.current, m.release = image, release
	return nil
}

func (m *images) build(ctx context.Context, progress func(line string)) (template.Image, error) {
	var step string
	var told time.Time
	return m.cache.Build(ctx, m.def, m.extra, func(s template.Step) {
		line := "template " + m.def.Name + ": " + s.Name
		switch {
		case s.Name != step:
			step = s.Name
		case time.Since(told) < tellEvery:
			return
		case s.Detail != "":
			line += ": " + s.Detail
		}
		told = time.Now()
		m.mu.Lock()
		m.step = s.Name
		m.mu.Unlock()
		progress(line)
	})
}

// tellEvery is how often a step that takes long is told of again. The tools say
// much more.
const tellEvery = 2 * time.Second

// keepUnused is how long images are kept that no server uses: another version may
// be stopped for a moment, or taken back.
const keepUnused = 24 * time.Hour

// prune removes images of this template that no server uses any more, such as
// those with the agent of an older program.
func (m *images) prune(ctx context.Context, log *slog.Logger) {
	m.mu.Lock()
	current := m.current
	m.mu.Unlock()
	removed, err := m.cache.Prune(ctx, current, keepUnused, func(i template.Image) error {
		return m.snapshots.RemoveImage(i.Digest)
	})
	for _, i := range removed {
		log.Info("removed an image that nothing uses any more", "template", i.Name, "digest", i.Digest)
	}
	if err != nil {
		log.Warn("old images could not be removed", "error", err)
	}
}

// recipe is the runtime's view of a template: how a snapshot of it is made. The
// files of an image may be lost while the server runs: who deletes the cache
// directory may do so at any time. They are made again in the background, and
// until then no sandbox can be started.
func (m *images) recipe(_ context.Context, name string) (runtime.Recipe, error) {
	m.mu.Lock()
	current, ready := m.current, m.release != nil
	m.mu.Unlock()
	modules, known := m.def.Modules(name)
	switch {
	case !known:
		return runtime.Recipe{}, fmt.Errorf("%w: no template of this server has %q", runtime.ErrNoSnapshot, name)
	case !ready:
		return runtime.Recipe{}, fmt.Errorf("the template %s is still being built", m.def.Name)
	}
	if err := current.Check(); err != nil {
		return runtime.Recipe{}, m.heal(err)
	}
	return runtime.Recipe{Image: runtime.Image{Path: current.Path, Digest: current.Digest}, Modules: modules}, nil
}

// heal begins to make again what was lost, unless that is under way, and returns
// what to tell who needs it. A failure is logged, and the next who needs it
// begins anew.
func (m *images) heal(lost error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if again := m.again; again != nil && !m.healing {
		m.healing, m.step = true, "begin"
		var ctx context.Context
		ctx, m.stop = context.WithCancel(context.Background())
		m.log.Warn("the template is gone from the cache directory, or damaged; making it again", "template", m.def.Name, "error", lost)
		m.healed.Go(func() {
			err := again(ctx)
			m.mu.Lock()
			m.healing = false
			m.mu.Unlock()
			switch {
			case ctx.Err() != nil:
			case err != nil:
				m.log.Error("the template could not be made again", "template", m.def.Name, "error", err)
			default:
				m.log.Info("the template is there again", "template", m.def.Name)
			}
		})
	}
	return &agentsandbox.Error{
		Code: agentsandbox.CodeUnavailable, RetryAfterSeconds: healRetry, Err: lost,
		Message: fmt.Sprintf("The template %s is gone from the server's cache directory and is being made again (%s); try again shortly.", m.def.Name, m.step),
	}
}

// healRetry is when to ask again, in seconds, while a template is made.
const healRetry = 5

// stopHealing ends what is being made again, and begins nothing more.
func (m *images) stopHealing() {
	m.mu.Lock()
	m.again = nil
	if m.stop != nil {
		m.stop()
	}
	m.mu.Unlock()
	m.healed.Wait()
}

func (m *images) close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.release != nil {
		m.release()
		m.release = nil
	}
	return nil
}

// localTemplatesOf opens the templates for the command line.
func localTemplatesOf(cfg config.Config, log *slog.Logger) (cli.Templates, error) {
	m, err := openImages(cfg, log)
	if err != nil {
		return nil, err
	}
	return (*localTemplates)(m), nil
}

// localTemplates shows images to the command line.
type localTemplates images

func shown(i template.Image) cli.Template {
	t := cli.Template{Name: i.Name, Digest: i.Digest, Path: i.Path, SizeBytes: i.SizeBytes, BuiltAt: i.BuiltAt, Inputs: i.Inputs}
	for _, p := range i.Packages {
		t.Packages = append(t.Packages, cli.Package{Name: p.Name, Version: p.Version, Kind: p.Kind})
	}
	return t
}

func (m *localTemplates) List(ctx context.Context) ([]cli.Template, error) {
	all, err := m.cache.List(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]cli.Template, len(all))
	for i, image := range all {
		list[i] = shown(image)
	}
	return list, nil
}

func (m *localTemplates) Build(ctx context.Context, name string, progress func(line string)) (cli.Template, error) {
	if name != m.def.Name {
		return cli.Template{}, fmt.Errorf("no template %q is defined; there is %q", name, m.def.Name)
	}
	image, err := (*images)(m).build(ctx, progress)
	if err != nil {
		return cli.Template{}, err
	}
	return shown(image), nil
}

func (m *localTemplates) Inspect(ctx context.Context, name string) (cli.Template, error) {
	image, err := m.cache.Inspect(ctx, name)
	if err != nil {
		return cli.Template{}, err
	}
	return shown(image), nil
}

func (m *localTemplates) Remove(ctx context.Context, name string) error {
	_, err := m.cache.Remove(ctx, name, func(i template.Image) error {
		return m.snapshots.RemoveImage(i.Digest)
	})
	return err
}
