//! Where the next page of a list of flows begins: a place in each worker's table.
//!
//! Flows stay at their places while they live, so that none is shown twice and none that lives all
//! the while is left out. Clients get it as a text that means nothing to them.

/// The workers that may have more, each with the place to begin at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor(Vec<(u8, u32)>);

impl Cursor {
    /// What `to_text` wrote.
    pub fn parse(text: &str) -> Option<Cursor> {
        let place = |part: &str| {
            let (worker, place) = part.split_once('.')?;
            Some((worker.parse().ok()?, place.parse().ok()?))
        };
        let mut cursor = Cursor::default();
        for part in text.split('-') {
            let (worker, place) = place(part)?;
            cursor.set(worker, place);
        }
        Some(cursor)
    }

    /// As text; none at the end of the list.
    pub fn to_text(&self) -> Option<String> {
        let parts: Vec<String> =
            self.0.iter().map(|(worker, place)| format!("{worker}.{place}")).collect();
        (!parts.is_empty()).then(|| parts.join("-"))
    }

    /// How many workers may have more.
    pub fn workers(&self) -> u32 {
        self.0.len() as u32
    }

    /// Where `worker` goes on, unless it is through.
    pub fn place_of(&self, worker: u8) -> Option<u32> {
        self.0.iter().find(|(other, _)| *other == worker).map(|(_, place)| *place)
    }

    pub fn set(&mut self, worker: u8, place: u32) {
        self.remove(worker);
        self.0.push((worker, place));
    }

    pub fn remove(&mut self, worker: u8) {
        self.0.retain(|(other, _)| *other != worker);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_the_way_to_the_client_and_back() {
        let mut cursor = Cursor::default();
        assert_eq!(cursor.to_text(), None);
        cursor.set(3, 77);
        cursor.set(0, 4_000_000_000);
        cursor.set(3, 78);
        let text = cursor.to_text().unwrap();
        assert_eq!(Cursor::parse(&text), Some(cursor));
        for bad in ["", "3", "3.", "3.x", "3.1-", "300.1", "1.5000000000", "-1.2"] {
            assert_eq!(Cursor::parse(bad), None, "{bad}");
        }
    }
}
