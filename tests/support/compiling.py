"""How tests, and the runs that they start, compile: a test compiles more than it computes."""

FAST_COMPILING = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
