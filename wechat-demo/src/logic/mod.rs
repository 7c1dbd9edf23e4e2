//! The logic layer: the business, stateless.
