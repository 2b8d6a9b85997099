package preload

import (
	"testing"

	"github.com/agentsandbox/agentsandbox"
)

func TestHelps(t *testing.T) {
	set := Set{Packages: []string{"numpy", "pandas", "matplotlib", "seaborn", "sklearn", "statsmodels"}}
	for code, want := range map[string]bool{
		"":         false,
		"print(1)": false,
		"import numpy, pandas, matplotlib.pyplot":                           true,
		"import json, numpy as np\nprint(np.pi)":                            true,
		"import os; import pandas as pd":                                    true,
		"from matplotlib import pyplot as plt\r\n":                          true,
		"from  pandas.core import frame":                                    true,
		"def f():\n    import seaborn\n    return seaborn":                  true,
		"import sklearn.pipeline":                                           true,
		"from statsmodels.api import OLS":                                   true,
		"import json":                                                       false,
		"import numpydoc":                                                   false,
		"from json import numpy":                                            false,
		"from . import pandas":                                              false,
		"print('import the numpy')":                                         false,
		"import subprocess, numpy\nsubprocess.run(['pip', 'install', 'x'])": false,
		"import sys\nsys.path.insert(0, 'lib')\nimport numpy":               false,
	} {
		if got := set.Helps(agentsandbox.Python, code); got != want {
			t.Errorf("%q: %v, want %v", code, got, want)
		}
	}
	if set.Helps(agentsandbox.Bash, "import numpy") {
		t.Error("a set of Python modules helps Bash")
	}
	if (Set{}).Helps(agentsandbox.Python, "import numpy") {
		t.Error("an empty set helps")
	}
}
