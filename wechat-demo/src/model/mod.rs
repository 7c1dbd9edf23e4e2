//! The words of the domain as distinct types, and their limits.
