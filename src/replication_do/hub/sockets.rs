//! The clients with a WebSocket.

use std::cell::RefCell;
use std::rc::Rc;

use super::Client;

/// In the order in which they came, which is that of their connections' numbers: ten thousand that
/// acknowledge are looked up ten thousand times.
#[derive(Debug)]
pub(super) struct Sockets(RefCell<Rc<Vec<Client>>>);

impl Sockets {
    /// Those that outlived the object's last life, in any order.
    pub(super) fn new(mut clients: Vec<Client>) -> Self {
        clients.sort_by_key(number);
        Self(RefCell::new(Rc::new(clients)))
    }

    /// All that there are now; who comes and goes later does not change it.
    pub(super) fn all(&self) -> Rc<Vec<Client>> {
        Rc::clone(&self.0.borrow())
    }

    /// Adds one whose number is above all others'.
    pub(super) fn add(&self, client: Client) {
        Rc::make_mut(&mut self.0.borrow_mut()).push(client);
    }

    /// The client of a connection.
    pub(super) fn find(&self, connection: u64) -> Option<Client> {
        let clients = self.all();
        let index = clients.binary_search_by_key(&connection, number).ok()?;
        clients.get(index).cloned()
    }

    /// Forgets a client.
    pub(super) fn remove(&self, connection: u64) {
        let mut clients = self.0.borrow_mut();
        if let Ok(index) = clients.binary_search_by_key(&connection, number) {
            Rc::make_mut(&mut clients).remove(index);
        }
    }

    /// Forgets those that can be sent nothing more.
    pub(super) fn remove_gone(&self) {
        let mut clients = self.0.borrow_mut();
        if clients.iter().any(|client| client.is_gone()) {
            Rc::make_mut(&mut clients).retain(|client| !client.is_gone());
        }
    }
}

fn number(client: &Client) -> u64 {
    client.attachment().connection
}
