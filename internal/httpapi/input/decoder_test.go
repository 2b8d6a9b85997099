package input

import "testing"

func TestWholeNumbers(t *testing.T) {
	for token, want := range map[string]int64{
		"5000.0": 5000, "5e3": 5000, "5E+3": 5000, "5.12e2": 512, "50000e-1": 5000, "0": 0, "-0.0": 0, "0e999999999999999999999": 0,
		"9007199254740993.0": 9007199254740993, "9223372036854775807": 1<<63 - 1, "-9223372036854775808.00": -1 << 63, "0.0000000000000000000000001e25": 1,
		"1e18": 1e18, "-12.30e1": -123,
	} {
		if got, ok := wholeNumber(token); !ok || got != want {
			t.Errorf("%s: %d, %v", token, got, ok)
		}
	}
	for _, token := range []string{"1.5", "1e400", "-1e400", "1e-1", "9223372036854775808", "1e19", "123e-1", "1e999999999999999999999", "1e-999999999999999999999"} {
		if got, ok := wholeNumber(token); ok {
			t.Errorf("%s is %d", token, got)
		}
	}
}
