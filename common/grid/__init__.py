"""The experiment grid: methods x numbers of labelled images x splits from one YAML file, as tables and figures."""
