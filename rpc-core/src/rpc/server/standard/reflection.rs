//! `grpc.reflection.v1.ServerReflection`, and the same as `v1alpha`: what a server's schema is.
//!
//! Knows: the descriptor sets of a server's services.   Does not know: who asks.

use std::sync::Arc;

use prost::Message;
use prost_reflect::{DescriptorPool, FileDescriptor};

use super::method;
use crate::rpc::descriptor::ServiceDescriptor;
use crate::rpc::message::{Request, Response};
use crate::rpc::server::{Finished, ServerCall, Service};
use crate::rpc::status::Code;
use crate::rpc::streaming::Streaming;

/// The schema of a server, under one of the two names of the service.
pub(in crate::rpc::server) struct Reflection {
    schema: Arc<Schema>,
    descriptor: &'static ServiceDescriptor,
}

struct Schema {
    pool: DescriptorPool,
    /// Full names, in order.
    services: Vec<&'static str>,
}

#[derive(Clone, PartialEq, Message)]
struct Ask {
    #[prost(string, tag = "1")]
    host: String,
    #[prost(oneof = "What", tags = "3, 4, 5, 6, 7")]
    what: Option<What>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum What {
    #[prost(string, tag = "3")]
    FileByName(String),
    #[prost(string, tag = "4")]
    FileOfSymbol(String),
    #[prost(message, tag = "5")]
    FileOfExtension(Extension),
    #[prost(string, tag = "6")]
    ExtensionsOf(String),
    #[prost(string, tag = "7")]
    Services(String),
}

#[derive(Clone, PartialEq, Message)]
struct Extension {
    #[prost(string, tag = "1")]
    of: String,
    #[prost(int32, tag = "2")]
    number: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Told {
    #[prost(string, tag = "1")]
    host: String,
    #[prost(message, optional, tag = "2")]
    asked: Option<Ask>,
    #[prost(oneof = "Answer", tags = "4, 5, 6, 7")]
    answer: Option<Answer>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Answer {
    #[prost(message, tag = "4")]
    Files(Files),
    #[prost(message, tag = "5")]
    Extensions(Extensions),
    #[prost(message, tag = "6")]
    Services(Services),
    #[prost(message, tag = "7")]
    Failure(Failure),
}

#[derive(Clone, PartialEq, Message)]
struct Files {
    /// Serialized FileDescriptorProtos.
    #[prost(bytes = "vec", repeated, tag = "1")]
    files: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct Extensions {
    #[prost(string, tag = "1")]
    of: String,
    #[prost(int32, repeated, tag = "2")]
    numbers: Vec<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct Services {
    #[prost(message, repeated, tag = "1")]
    services: Vec<Named>,
}

#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct Failure {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

impl Reflection {
    /// Both services, for a server that has these and them.
    ///
    /// # Errors
    /// Descriptor sets of two services contradict each other, or do not parse.
    pub fn of(services: &[Arc<dyn Service>]) -> Result<[Self; 2], String> {
        let mut schema = Schema {
            pool: DescriptorPool::new(),
            services: Vec::new(),
        };
        let own = [&V1, &V1ALPHA];
        let all = services.iter().map(|service| service.descriptor());
        for descriptor in all.chain(own) {
            schema
                .pool
                .decode_file_descriptor_set(descriptor.file_descriptor_set)
                .map_err(|error| {
                    format!("the schema of {} cannot be told: {error}", descriptor.name)
                })?;
            schema.services.push(descriptor.name);
        }
        schema.services.sort_unstable();
        let schema = Arc::new(schema);
        Ok(own.map(|descriptor| Self {
            schema: Arc::clone(&schema),
            descriptor,
        }))
    }
}

impl Schema {
    fn tell(&self, asked: Ask) -> Told {
        let answer = match &asked.what {
            Some(What::FileByName(name)) => self.pool.get_file_by_name(name).map(files),
            Some(What::FileOfSymbol(name)) => self.file_of(name).map(files),
            Some(What::FileOfExtension(extension)) => {
                let number = u32::try_from(extension.number).ok();
                self.pool
                    .get_message_by_name(&extension.of)
                    .and_then(|message| message.get_extension(number?))
                    .map(|extension| files(extension.parent_file()))
            }
            Some(What::ExtensionsOf(name)) => {
                let message = self.pool.get_message_by_name(name);
                message.map(|message| {
                    let numbers = message.extensions().map(|e| e.number() as i32).collect();
                    let of = name.clone();
                    Answer::Extensions(Extensions { of, numbers })
                })
            }
            Some(What::Services(_)) => {
                let named = self.services.iter().map(|name| Named {
                    name: (*name).to_owned(),
                });
                let services = named.collect();
                Some(Answer::Services(Services { services }))
            }
            None => Some(failure(
                Code::InvalidArgument,
                "the request asks for nothing",
            )),
        };
        let unknown = || failure(Code::NotFound, "no such file, symbol or extension here");
        Told {
            host: asked.host.clone(),
            answer: Some(answer.unwrap_or_else(unknown)),
            asked: Some(asked),
        }
    }

    /// The file that defines a message, an enum, a service, a method, a field or an extension.
    fn file_of(&self, symbol: &str) -> Option<FileDescriptor> {
        let pool = &self.pool;
        let whole = || {
            let message = pool.get_message_by_name(symbol).map(|it| it.parent_file());
            let service = || pool.get_service_by_name(symbol).map(|it| it.parent_file());
            let kind = || pool.get_enum_by_name(symbol).map(|it| it.parent_file());
            let extension = || {
                pool.get_extension_by_name(symbol)
                    .map(|it| it.parent_file())
            };
            message.or_else(service).or_else(kind).or_else(extension)
        };
        let part = || {
            let (parent, name) = symbol.rsplit_once('.')?;
            let service = pool.get_service_by_name(parent);
            let method = service.filter(|it| it.methods().any(|method| method.name() == name));
            let message = pool.get_message_by_name(parent);
            let field = || message.filter(|it| it.get_field_by_name(name).is_some());
            let of_method = method.map(|it| it.parent_file());
            of_method.or_else(|| field().map(|it| it.parent_file()))
        };
        whole().or_else(part)
    }
}

/// A file and all it builds on, each before those that need it.
fn files(file: FileDescriptor) -> Answer {
    let (mut all, mut seen) = (Vec::new(), Vec::new());
    add(&file, &mut all, &mut seen);
    Answer::Files(Files { files: all })
}

fn add(file: &FileDescriptor, all: &mut Vec<Vec<u8>>, seen: &mut Vec<String>) {
    if seen.iter().any(|name| name == file.name()) {
        return;
    }
    seen.push(file.name().to_owned());
    for dependency in file.dependencies() {
        add(&dependency, all, seen);
    }
    all.push(file.encode_to_vec());
}

fn failure(code: Code, text: &str) -> Answer {
    Answer::Failure(Failure {
        code: code.number(),
        message: text.to_owned(),
    })
}

static V1: ServiceDescriptor = ServiceDescriptor {
    name: "grpc.reflection.v1.ServerReflection",
    methods: &[method(
        "grpc.reflection.v1.ServerReflection",
        "ServerReflectionInfo",
        [
            "grpc.reflection.v1.ServerReflectionRequest",
            "grpc.reflection.v1.ServerReflectionResponse",
        ],
        [true, true],
    )],
    file_descriptor_set: include_bytes!("reflection_v1.bin"),
};

static V1ALPHA: ServiceDescriptor = ServiceDescriptor {
    name: "grpc.reflection.v1alpha.ServerReflection",
    methods: &[method(
        "grpc.reflection.v1alpha.ServerReflection",
        "ServerReflectionInfo",
        [
            "grpc.reflection.v1alpha.ServerReflectionRequest",
            "grpc.reflection.v1alpha.ServerReflectionResponse",
        ],
        [true, true],
    )],
    file_descriptor_set: include_bytes!("reflection_v1alpha.bin"),
};

impl Service for Reflection {
    fn descriptor(&self) -> &'static ServiceDescriptor {
        self.descriptor
    }

    fn call(&self, _method: usize, call: ServerCall) -> Finished {
        let schema = Arc::clone(&self.schema);
        call.bidi(|request: Request<Streaming<Ask>>| {
            let tell = move |asked: Result<Ask, _>| asked.map(|asked| schema.tell(asked));
            Ok(Response::new(request.into_inner().map(tell)))
        })
    }
}
