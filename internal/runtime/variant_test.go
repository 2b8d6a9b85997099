package runtime

import (
	"testing"

	"github.com/agentsandbox/agentsandbox"
)

func TestVariantFor(t *testing.T) {
	for code, want := range map[string]Variant{
		"":         Bare,
		"print(1)": Bare,
		"import numpy, pandas, matplotlib.pyplot":                           DataLibraries,
		"import json, numpy as np\nprint(np.pi)":                            DataLibraries,
		"import os; import pandas as pd":                                    DataLibraries,
		"from matplotlib import pyplot as plt\r\n":                          DataLibraries,
		"from  pandas.core import frame":                                    DataLibraries,
		"def f():\n    import seaborn\n    return seaborn":                  DataLibraries,
		"import sklearn.pipeline":                                           DataLibraries,
		"from statsmodels.api import OLS":                                   DataLibraries,
		"import json":                                                       Bare,
		"import numpydoc":                                                   Bare,
		"from json import numpy":                                            Bare,
		"from . import pandas":                                              Bare,
		"print('import the numpy')":                                         Bare,
		"import subprocess, numpy\nsubprocess.run(['pip', 'install', 'x'])": Bare,
		"import sys\nsys.path.insert(0, 'lib')\nimport numpy":               Bare,
	} {
		if got := VariantFor(agentsandbox.Python, code); got != want {
			t.Errorf("%q: %q, want %q", code, got, want)
		}
	}
	if got := VariantFor(agentsandbox.Bash, "import numpy"); got != Bare {
		t.Errorf("bash: %q", got)
	}
	if len(Bare.Modules()) != 0 || len(DataLibraries.Modules()) == 0 {
		t.Error("the variants load the wrong modules")
	}
}
