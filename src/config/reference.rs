//! The reference of the schema for people, printed from the schema itself.

use super::schema::CONFIG;
use super::shape::{Field, Shape};

/// docs/CONFIGURATION.md.
pub fn reference() -> String {
    let mut text = String::from(HEAD);
    if let Shape::Table(fields) = CONFIG {
        for field in fields {
            section(field, "", &mut text);
        }
    }
    text
}

const HEAD: &str = "# Configuration

Printed from the schema (`config::reference`); a test keeps it so. The same names serve as JSON on
the control socket. `gyre check FILE` says what is wrong with a file, where, and what to do.
Values in parentheses hold when a field is left out.
";

/// The fields of a table, whether one, in a list or in a map.
fn fields_of(shape: &Shape) -> Option<(&'static [Field], Kind)> {
    match shape {
        Shape::Table(fields) => Some((fields, Kind::One)),
        Shape::List(Shape::Table(fields)) => Some((fields, Kind::List)),
        Shape::Map(Shape::Table(fields)) => Some((fields, Kind::Map)),
        _ => None,
    }
}

#[derive(Clone, Copy)]
enum Kind {
    One,
    List,
    Map,
}

fn section(field: &Field, above: &str, text: &mut String) {
    let Some((fields, kind)) = fields_of(&field.shape) else { return };
    let name = format!("{above}{}", field.name);
    let header = match kind {
        Kind::One => format!("[{name}]"),
        Kind::List => format!("[[{name}]]"),
        Kind::Map => format!("[{name}.NAME]"),
    };
    text.push_str(&format!("\n## `{header}`\n\n{}.\n\n", capitalized(field.about)));
    text.push_str("| field | value | meaning |\n|---|---|---|\n");
    for inner in fields.iter().filter(|inner| fields_of(&inner.shape).is_none()) {
        let needed = if inner.required { " **(required)**" } else { "" };
        let value = inner.shape.expected().replace('|', "\\|");
        text.push_str(&format!("| `{}`{needed} | {value} | {} |\n", inner.name, inner.about));
    }
    for inner in fields {
        section(inner, &format!("{name}."), text);
    }
}

fn capitalized(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(characters).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_in_docs_is_this_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/CONFIGURATION.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, super::reference()).unwrap();
        }
        let page = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            page == super::reference(),
            "docs/CONFIGURATION.md is out of date: run this test with UPDATE_DOCS=1"
        );
    }
}
