package proc

import (
	"testing"
)

func TestMembersAreToldByTheirStatus(t *testing.T) {
	tests := []struct {
		name, status string
		want         member
		ok           bool
	}{
		{"marked", "Name:\tUid: 0\nState:\tS (sleeping)\nUid:\t1000\t1000\t1000\t1000\nGroups:\t4 1048577 \nThreads:\t3\n", member{threads: 3, mark: 1048577}, true},
		{"unmarked", "State:\tR (running)\nUid:\t1000\t1000\nGroups:\t \nThreads:\t1\n", member{threads: 1}, true},
		{"root", "State:\tS (sleeping)\nUid:\t0\t0\nGroups:\t1048577 \n", member{}, false},
		{"dead", "State:\tZ (zombie)\nUid:\t1000\t1000\nGroups:\t1048577 \n", member{}, false},
		{"nothing", "", member{}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := memberOf(tt.status, 1000)
			if ok != tt.ok || ok && got != tt.want {
				t.Errorf("got %+v, %t", got, ok)
			}
		})
	}
}
