//! The launcher of a whole cluster of processes.
