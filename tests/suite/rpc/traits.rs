//! Services made of a trait, without a `.proto`.

use rpc_core::{Code, Streaming, Wire};

use super::peer::http;
use super::*;

#[derive(Clone, PartialEq, prost::Message)]
struct Order {
    #[prost(string, tag = "1")]
    what: String,
    #[prost(uint32, tag = "2")]
    count: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Receipt {
    #[prost(string, tag = "1")]
    text: String,
}

/// Sells things.
#[rpc_core::service(package = "shop.v1", mock)]
trait Orders {
    /// Takes an order.
    fn place(&self, request: Request<Order>) -> Result<Response<Receipt>, Status>;

    /// A receipt for each piece.
    fn each_piece(
        &self,
        request: Request<Order>,
    ) -> Result<Response<impl Iterator<Item = Result<Receipt, Status>>>, Status>;

    /// One receipt for all.
    fn add_up(&self, request: Request<Streaming<Order>>) -> Result<Response<Receipt>, Status>;
}

struct Shop;

impl Orders for Shop {
    fn place(&self, request: Request<Order>) -> Result<Response<Receipt>, Status> {
        match request.count {
            0 => Err(Status::invalid_argument("nothing is ordered")),
            count => Ok(Response::new(Receipt {
                text: format!("{count} {}", request.what),
            })),
        }
    }

    fn each_piece(
        &self,
        request: Request<Order>,
    ) -> Result<Response<impl Iterator<Item = Result<Receipt, Status>>>, Status> {
        let Order { what, count } = request.into_inner();
        let text = move |piece| format!("{what} {piece}");
        Ok(Response::new(
            (1..=count).map(move |piece| Ok(Receipt { text: text(piece) })),
        ))
    }

    fn add_up(&self, request: Request<Streaming<Order>>) -> Result<Response<Receipt>, Status> {
        let mut sum = 0;
        for order in request.into_inner() {
            sum += order?.count;
        }
        let text = sum.to_string();
        Ok(Response::new(Receipt { text }))
    }
}

fn order(what: &str, count: u32) -> Order {
    let what = what.to_owned();
    Order { what, count }
}

#[rpc_core::test]
fn a_trait_is_served_and_called_over_both_wires() {
    let server = Served::with(|builder| builder.add_service(OrdersServer::new(Shop)).reflection());
    assert_eq!(OrdersServer::<Shop>::NAME, "shop.v1.Orders");
    for wire in [Wire::Prpc, Wire::Grpc] {
        let builder = Channel::builder(&server.addr.to_string()).deadline(PATIENCE);
        let client = OrdersClient::new(builder.protocol(wire).connect().unwrap());
        assert_eq!(client.place(order("teapots", 2)).unwrap().text, "2 teapots");
        let refused = client.place(order("teapots", 0)).unwrap_err();
        assert_eq!(refused.message(), "nothing is ordered");
    }
    let builder = Channel::builder(&server.addr.to_string()).deadline(PATIENCE);
    let client = OrdersClient::new(builder.protocol(Wire::Grpc).connect().unwrap());
    let pieces = client.each_piece(order("cup", 3)).unwrap().into_inner();
    let pieces: Vec<String> = pieces.map(|piece| piece.unwrap().text).collect();
    assert_eq!(pieces, ["cup 1", "cup 2", "cup 3"]);
    let orders = (1..=4).map(|count| order("cup", count));
    let sum = client.add_up(orders.collect::<Vec<_>>()).unwrap();
    assert_eq!(sum.text, "10");

    let addr = server.addr;
    let post = "POST /shop.v1.Orders/Place HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}";
    let (status, _, body) = on_a_thread(move || http(addr, post));
    assert_eq!(status, 501, "{body}");
    assert!(body.contains("no schema"), "{body}");
    server.stop();
}

#[test]
fn a_mock_of_a_trait_does_what_it_was_told() {
    let mock = OrdersMock::new().on_place(|request| {
        let text = request.what.clone();
        Ok(Response::new(Receipt { text }))
    });
    let told = mock.place(Request::new(order("a cup", 1))).unwrap();
    assert_eq!(told.text, "a cup");
    let status = mock.each_piece(Request::new(order("", 0))).err().unwrap();
    assert_eq!(status.code(), Code::Unimplemented);
}
