package config

import (
	"errors"
	"path/filepath"
)

const directory = "agentsandbox"

// DefaultDataDir returns where the daemon of a user keeps its data when nobody
// says otherwise; env looks environment variables up.
func DefaultDataDir(env func(string) string, uid int) (string, error) {
	if uid == 0 {
		return filepath.Join("/var/lib", directory), nil
	}
	return userDir(env, "XDG_DATA_HOME", ".local/share")
}

func defaultCacheDir(env func(string) string, uid int) (string, error) {
	dir, err := userDir(env, "XDG_CACHE_HOME", ".cache")
	if err != nil && uid == 0 {
		// A system service of root's has no home, but it has a cache.
		return filepath.Join("/var/cache", directory), nil
	}
	return dir, err
}

// userDir follows the XDG base directory specification: the variable counts
// only when it is an absolute path.
func userDir(env func(string) string, variable, belowHome string) (string, error) {
	if dir := env(variable); filepath.IsAbs(dir) {
		return filepath.Join(dir, directory), nil
	}
	home := env("HOME")
	if !filepath.IsAbs(home) {
		return "", errors.New("has no default, because HOME is not set; name a directory")
	}
	return filepath.Join(home, belowHome, directory), nil
}
