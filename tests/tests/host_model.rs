//! The model of the specification against the lines of its tables.

use svc_tests::model::examples::examples;

#[test]
fn the_model_says_what_the_tables_say() {
    let all = examples();
    let wrong: Vec<String> = all.iter().filter_map(|example| example.check_model().err()).collect();
    assert!(wrong.is_empty(), "{} of {} examples differ:\n{}", wrong.len(), all.len(), wrong.join("\n"));
}
