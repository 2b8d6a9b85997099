package client

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"

	"github.com/agentsandbox/agentsandbox"
)

// DownloadFile writes the contents of a file to w, and fails unless they are
// whole: what was written until then is no file. The answer is as of OpenFile.
func (c *Client) DownloadFile(ctx context.Context, id string, w io.Writer) (*agentsandbox.File, error) {
	file, body, err := c.OpenFile(ctx, id)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	hash := sha256.New()
	if _, err := io.Copy(io.MultiWriter(w, hash), body); err != nil {
		return nil, fmt.Errorf("download %s: %w", id, err)
	}
	if got := hex.EncodeToString(hash.Sum(nil)); len(file.SHA256) == len(got) && file.SHA256 != got {
		return nil, agentsandbox.Errorf(agentsandbox.CodeInternal, "The contents of %s changed on their way: download it again.", id)
	}
	return file, nil
}

// DownloadPath writes a regular file of a session to w. The answer is as of
// ReadPath.
func (c *Client) DownloadPath(ctx context.Context, sessionID, path string, w io.Writer) (*agentsandbox.PathInfo, error) {
	info, body, err := c.ReadPath(ctx, sessionID, path)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	if _, err := io.Copy(w, body); err != nil {
		return nil, fmt.Errorf("download %s: %w", path, err)
	}
	return info, nil
}
