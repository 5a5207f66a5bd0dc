//! Keys as the wire and the engine use them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use base::{ManualClock, SystemRandom};

use super::*;

const ROLE: &str = "arn:aws:iam::123456789012:role/service/f-role";

fn keys(folder: &Path) -> (Keys, Arc<ManualClock>) {
    let clock = ManualClock::at_ms(1_000);
    (Keys::up(folder, clock.clone(), SystemRandom::shared()).unwrap(), clock)
}

#[tokio::test]
async fn the_root_key_is_made_once_and_kept_private() {
    let folder = tempfile::tempdir().unwrap();
    let first = root_key(folder.path(), &SystemRandom).unwrap();
    assert!(root_key(folder.path(), &SystemRandom).unwrap() == first);
    assert_eq!((first.access_key.len(), first.secret_key.len()), (20, 40));
    let path = folder.path().join(ROOT_KEY_FILE);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let (keys, _) = keys(folder.path());
    let known = keys.key(&first.access_key, None).await.unwrap();
    assert_eq!(known.principal.arn, "arn:aws:iam::000000000000:root");
    assert!(known.credentials == first);
    assert!(keys.key("AKIAOTHER", None).await.is_none());
    assert!(keys.key(&first.access_key, Some("token")).await.is_none());

    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(root_key(folder.path(), &SystemRandom), Err(Error::TooOpen { mode: 0o640, .. })));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&path, "").unwrap();
    assert!(matches!(root_key(folder.path(), &SystemRandom), Err(Error::Damaged { .. })));
}

#[tokio::test]
async fn temporary_keys_outlive_the_process_and_end_on_time() {
    let folder = tempfile::tempdir().unwrap();
    let issued = keys(folder.path()).0.issue(ROLE, "f", 60).await;
    let (keys, clock) = keys(folder.path());
    let token = issued.session_token.as_deref();
    let known = keys.key(&issued.access_key, token).await.unwrap();
    assert!(known.credentials == issued);
    assert_eq!(known.principal.arn, "arn:aws:sts::123456789012:assumed-role/f-role/f");
    assert_eq!(known.principal.account.as_str(), "123456789012");
    assert!(keys.key(&issued.access_key, None).await.is_none());
    assert!(keys.key("ASIAOTHER", token).await.is_none());
    clock.advance(Duration::from_secs(60));
    assert!(keys.key(&issued.access_key, token).await.is_none());
    assert!(keys.has_ended(&issued.access_key, token).await);
    assert!(!keys.has_ended("ASIAOTHER", token).await);
}

#[tokio::test]
async fn a_token_that_was_touched_or_made_elsewhere_is_nobodys() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (keys, _) = keys(here.path());
    let foreign = Keys::up(there.path(), ManualClock::at_ms(1_000), SystemRandom::shared()).unwrap();
    let other = foreign.issue(ROLE, "f", 60).await;
    assert!(keys.key(&other.access_key, other.session_token.as_deref()).await.is_none());
    let issued = keys.issue(ROLE, "f", 60).await;
    let token = issued.session_token.unwrap();
    for at in 0..token.len() {
        let mut touched = token.clone().into_bytes();
        touched[at] = if touched[at] == b'A' { b'B' } else { b'A' };
        let touched = String::from_utf8(touched).unwrap();
        assert!(keys.key(&issued.access_key, Some(&touched)).await.is_none(), "{at}");
    }
}

#[tokio::test]
async fn in_development_every_key_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let keys = Keys::dev(folder.path(), ManualClock::at_ms(0), SystemRandom::shared()).unwrap();
    let account = async |key: &str| keys.key(key, None).await.unwrap().principal.account.to_string();
    assert_eq!(account("test").await, "000000000000");
    assert_eq!(account("123456789012").await, "123456789012");
    let issued = keys.issue(ROLE, "f", 60).await;
    let known = keys.key(&issued.access_key, issued.session_token.as_deref()).await.unwrap();
    assert_eq!(known.principal.account.as_str(), "123456789012");
    assert!(!folder.path().join(ROOT_KEY_FILE).exists());
}
