//! Placeholder front page; see ARCHITECTURE.md.
