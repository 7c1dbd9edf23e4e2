//! The edge role: what pictures, files and voice messages are made of, taken in and given out over HTTP.
//!
//! Knows: bytes, who owns them (logic says whose a token is), a directory.
//! Does not know: messages, friends, who is told of an object: whoever has its key may have it.
//!
//! ```text
//! POST   /media/uploads            begin (tus 1.0 "creation")     201 Location, or 200 and the pointer: it is here already
//! HEAD   /media/uploads/ID         how far it got                 200 Upload-Offset
//! PATCH  /media/uploads/ID         go on there, at most a chunk   204 Upload-Offset; 200 and the pointer with the last byte
//! DELETE /media/uploads/ID         give it up                     204
//! GET    /media/objects/ID?key=K   all of it, or a range          200, 206, 304
//! GET    /media/objects/ID/small?key=K   of a picture: a small JPEG, the same way
//! DELETE /media/objects/ID         the owner's                    204
//! ```
//! An upload says before its first byte how long it is, of which type, and its BLAKE3 hash. Uploads and the removal of
//! objects carry `Authorization: Bearer TOKEN`, the device's token in base64url. Reading carries the object's key, which
//! the pointer in a message has; no key, no word on whether there is such an object.
//!
//! Invariants
//! - E-1  An object is there once its bytes, its record and their names are synced, and not before; the pointer is given
//!   out after that. What an answer was lost of is found by beginning again: the same upload goes on, or is here already.
//! - E-2  An object's bytes have the hash, the length and the beginning of the type that its record says.
//! - E-3  What one owner has is no news to another: an object is one owner's, and its name and key are keyed hashes.
//! - E-4  A picture has been opened once before it is an object, and its small one made; what it says of its size is
//!   looked at before that.
//! - E-5  Bounds: a chunk, an object by its type, uploads and bytes of an owner, objects and bytes of the edge, requests
//!   under way, bytes of answers in memory. What is declared is counted from the beginning.
//!
//! An edge with `--origin` also gives out what other edges have: it asks them with the key that it was asked with, once for
//! all who want it meanwhile, and keeps what came within a bound (`cache.rs`). What is kept is served though its origin is gone.
//!
//! Read first: `http.rs`, then `store.rs`.

mod cache;
mod disk;
mod form;
mod gate;
mod http;
mod meter;
mod origin;
mod picture;
mod piece;
mod range;
pub mod role;
mod store;
mod ticket;
