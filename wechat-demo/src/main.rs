//! The `wechat-demo` command: one binary, a role per subcommand.

fn main() {}
