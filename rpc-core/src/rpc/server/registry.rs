//! The services of a server by name.
//!
//! Knows: descriptors, handlers.   Does not know: connections.

use std::collections::HashMap;
use std::sync::Arc;

use super::call::Service;
use super::stats::MethodStats;
use crate::rpc::descriptor::MethodDescriptor;
use crate::rpc::error::Error;
use crate::rpc::http_rule::Rules;
use crate::rpc::protocol::call::no_such_method;
use crate::rpc::protocol::{HttpRoute, Kind, Route, Routes};
use crate::rpc::status::Status;
use crate::rpc::transcode::Transcoder;

/// One method of one service, ready to be called.
pub(super) struct Method {
    /// The handler.
    pub service: Arc<dyn Service>,
    /// Its index in the service's descriptor.
    pub index: usize,
    /// Its place among all methods, and whether it streams.
    route: Route,
    /// Its names.
    pub descriptor: &'static MethodDescriptor,
    /// JSON in and out.
    pub texts: Transcoder,
    /// Its numbers.
    pub stats: MethodStats,
}

/// Every method of a server. A [`Route`] is an index into it.
pub(super) struct Registry {
    methods: Vec<Method>,
    /// Services by full name.
    services: HashMap<&'static str, Entry>,
    /// Services by the last part of their name, which old brpc peers send; `None` = several have it.
    short_names: HashMap<&'static str, Option<Entry>>,
    /// Paths that the schemas chose.
    pub rules: Rules,
}

/// Where a service's methods stand in [`Registry::methods`].
#[derive(Clone, Copy)]
struct Entry {
    first: usize,
    count: usize,
}

impl Registry {
    /// # Errors
    /// Two services have one name, or a descriptor set does not hold its service.
    pub fn new(services: Vec<Arc<dyn Service>>) -> Result<Self, Error> {
        let mut methods = Vec::new();
        let mut by_name = HashMap::new();
        let mut rules = Rules::default();
        for service in services {
            let descriptor = service.descriptor();
            let entry = Entry {
                first: methods.len(),
                count: descriptor.methods.len(),
            };
            if by_name.insert(descriptor.name, entry).is_some() {
                return Err(Error::Config(format!(
                    "the service {} was added twice: remove one of them",
                    descriptor.name
                )));
            }
            let unusable = |why| Error::Config(format!("service {}: {why}", descriptor.name));
            let pool = Transcoder::pool(descriptor.file_descriptor_set).map_err(unusable)?;
            for (index, method) in descriptor.methods.iter().enumerate() {
                let route = Route {
                    method: methods.len() as u32,
                    kind: Kind::new(method.client_streaming, method.server_streaming),
                };
                let texts = match descriptor.file_descriptor_set {
                    [] => Transcoder::none(),
                    _ => {
                        rules.add(&pool, method, route).map_err(unusable)?;
                        Transcoder::new(&pool, method.input, method.output).map_err(unusable)?
                    }
                };
                methods.push(Method {
                    service: Arc::clone(&service),
                    index,
                    route,
                    descriptor: method,
                    texts,
                    stats: MethodStats::default(),
                });
            }
        }
        let mut short_names = HashMap::new();
        for (name, entry) in &by_name {
            if let Some((_, short)) = str::rsplit_once(name, '.') {
                short_names
                    .entry(short)
                    .and_modify(|several| *several = None)
                    .or_insert(Some(*entry));
            }
        }
        Ok(Self {
            methods,
            services: by_name,
            short_names,
            rules,
        })
    }

    /// The method that `route` names.
    pub fn method(&self, route: Route) -> &Method {
        &self.methods[route.method as usize]
    }

    /// All of them, in the order of their services.
    pub fn methods(&self) -> &[Method] {
        &self.methods
    }
}

impl Routes for Registry {
    fn find(&self, service: &str, method: &str) -> Result<Route, Status> {
        let short = || self.short_names.get(service).copied().flatten();
        let entry = self.services.get(service).copied().or_else(short);
        let found = entry.and_then(|entry| {
            let own = &self.methods[entry.first..entry.first + entry.count];
            let found = own.iter().find(|own| own.descriptor.name == method)?;
            Some(found.route)
        });
        found.ok_or_else(|| no_such_method(service, method))
    }

    fn find_http(&self, method: &str, path: &str) -> Result<HttpRoute, Status> {
        self.rules.find(method, path)
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::{DescriptorProto, FileDescriptorProto, FileDescriptorSet};

    use super::*;
    use crate::rpc::descriptor::ServiceDescriptor;
    use crate::rpc::server::{Finished, ServerCall};

    struct Named(&'static ServiceDescriptor);

    impl Service for Named {
        fn descriptor(&self) -> &'static ServiceDescriptor {
            self.0
        }

        fn call(&self, _method: usize, call: ServerCall) -> Finished {
            call.unimplemented()
        }
    }

    fn service(name: &'static str, methods: &[&'static str]) -> Arc<dyn Service> {
        let file = FileDescriptorProto {
            name: Some("t.proto".into()),
            package: Some("t".into()),
            message_type: vec![DescriptorProto {
                name: Some("Empty".into()),
                ..DescriptorProto::default()
            }],
            ..FileDescriptorProto::default()
        };
        let set = FileDescriptorSet { file: vec![file] };
        let describe = |method: &&'static str| MethodDescriptor {
            service: name,
            name: method,
            input: "t.Empty",
            output: "t.Empty",
            client_streaming: false,
            server_streaming: false,
        };
        let methods: Vec<MethodDescriptor> = methods.iter().map(describe).collect();
        Arc::new(Named(Box::leak(Box::new(ServiceDescriptor {
            name,
            methods: methods.leak(),
            file_descriptor_set: set.encode_to_vec().leak(),
        }))))
    }

    #[test]
    fn full_names_lead_to_their_methods_and_short_ones_where_they_are_unique() {
        let services = vec![
            service("a.Echo", &["One", "Two"]),
            service("b.Echo", &["One"]),
            service("c.Chat", &["One"]),
            service("Chat", &["Two"]),
        ];
        let registry = Registry::new(services).unwrap();
        let found = |service, method| {
            registry
                .find(service, method)
                .ok()
                .map(|route| route.method)
        };
        assert_eq!(found("a.Echo", "Two"), Some(1));
        assert_eq!(found("b.Echo", "One"), Some(2));
        assert_eq!(
            found("Echo", "One"),
            None,
            "two services have this short name"
        );
        assert_eq!(
            found("Chat", "Two"),
            Some(4),
            "a full name comes before a short one"
        );
        assert_eq!(found("Chat", "One"), None);
        assert_eq!(found("a.Echo", "Three"), None);
        let route = registry.find("a.Echo", "Two").unwrap();
        assert_eq!(registry.method(route).descriptor.name, "Two");
    }

    #[test]
    fn two_services_of_one_name_are_refused_by_that_name() {
        let twice = vec![service("a.Echo", &["One"]), service("a.Echo", &["One"])];
        let error = Registry::new(twice).err().unwrap().to_string();
        assert!(
            error.contains("a.Echo") && error.contains("twice"),
            "{error}"
        );
    }
}
