//! What generated code expects of `rpc_core::codegen`, with calls that stay inside the process.

#![expect(missing_docs, reason = "rpc-core documents what this imitates")]

use std::sync::Arc;

pub use {bytes, prost, prost_types};

use prost::Message;

#[derive(Debug)]
pub struct Request<T>(pub T);

#[derive(Debug)]
pub struct Response<T>(pub T);

#[derive(Debug, PartialEq)]
pub struct Status(pub String);

impl Status {
    pub fn unimplemented(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

pub trait IntoRequest<T> {
    fn into_request(self) -> Request<T>;
}

impl<T> IntoRequest<T> for T {
    fn into_request(self) -> Request<T> {
        Request(self)
    }
}

impl<T> IntoRequest<T> for Request<T> {
    fn into_request(self) -> Self {
        self
    }
}

#[derive(Default)]
pub struct CallOptions;

pub struct ServiceDescriptor {
    pub name: &'static str,
    pub methods: &'static [MethodDescriptor],
    pub file_descriptor_set: &'static [u8],
}

pub struct MethodDescriptor {
    pub service: &'static str,
    pub name: &'static str,
    pub input: &'static str,
    pub output: &'static str,
    pub client_streaming: bool,
    pub server_streaming: bool,
}

pub trait Service: Send + Sync + 'static {
    fn descriptor(&self) -> &'static ServiceDescriptor;
    fn call(&self, method: usize, call: ServerCall) -> Finished;
}

pub struct ServerCall {
    body: Vec<u8>,
}

pub struct Finished(Result<Vec<u8>, Status>);

impl ServerCall {
    pub fn unary<In, Out>(
        self,
        run: impl FnOnce(Request<In>) -> Result<Response<Out>, Status>,
    ) -> Finished
    where
        In: Message + Default,
        Out: Message,
    {
        let request = In::decode(self.body.as_slice()).expect("the client has encoded this");
        Finished(run(Request(request)).map(|response| response.0.encode_to_vec()))
    }

    pub fn unimplemented(self) -> Finished {
        Finished(Err(Status::unimplemented("no such method")))
    }
}

#[derive(Clone)]
pub struct Channel(Arc<dyn Service>);

impl Channel {
    pub fn to(service: impl Service) -> Self {
        Self(Arc::new(service))
    }

    pub fn unary<In, Out>(
        &self,
        method: &'static MethodDescriptor,
        request: impl IntoRequest<In>,
        _: CallOptions,
    ) -> Result<Response<Out>, Status>
    where
        In: Message,
        Out: Message + Default,
    {
        let descriptor = self.0.descriptor();
        assert_eq!(descriptor.name, method.service);
        assert!(!method.client_streaming && !method.server_streaming);
        let index = descriptor
            .methods
            .iter()
            .position(|known| known.name == method.name);
        let call = ServerCall {
            body: request.into_request().0.encode_to_vec(),
        };
        let reply = self.0.call(index.unwrap_or(usize::MAX), call).0?;
        Ok(Response(
            Out::decode(reply.as_slice()).expect("the server has encoded this"),
        ))
    }
}
