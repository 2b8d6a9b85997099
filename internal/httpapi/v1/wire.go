package v1

import "time"

// wireTime is a time as answers show it: UTC, to the millisecond.
func wireTime(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }

func timeOrNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = wireTime(t)
	return &t
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
