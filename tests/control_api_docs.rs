//! docs/CONTROL_API.md is what the code says. `UPDATE_DOCS=1` writes it.

use std::fs;
use std::path::Path;

#[test]
fn the_committed_page_is_the_generated_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/CONTROL_API.md");
    let generated = gyre::control::api::markdown();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &generated).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == generated,
        "docs/CONTROL_API.md is out of date; write it with `UPDATE_DOCS=1 cargo test \
         --no-default-features --test control_api_docs`"
    );
}
