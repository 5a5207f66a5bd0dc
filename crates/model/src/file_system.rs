//! Folders of the host that functions may have as file systems: which one an access point's ARN means.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::AccountId;

/// A file system as a function has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSystem {
    /// The ARN of its access point.
    pub arn: String,
    /// Its folder's name below `/mnt`.
    pub name: String,
}

/// An access point that an operator has named: what functions of one account call one folder of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessPoint {
    /// Whose functions may have it.
    pub account: AccountId,
    /// `fsap-` and 17 hexadecimal digits.
    pub id: String,
}

/// A name that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no access point; write fsap- and 17 hexadecimal digits, after ACCOUNT/ if it is for another account than the first"
)]
pub struct NotAnAccessPoint(pub String);

impl AccessPoint {
    /// Whether an ARN means this one. Its region does not matter.
    pub fn is(&self, arn: &str) -> bool {
        let parts: Vec<&str> = arn.splitn(6, ':').collect();
        let [_, _, "elasticfilesystem", _, account, resource] = parts[..] else { return false };
        account == self.account.as_str() && resource.strip_prefix("access-point/") == Some(&self.id)
    }
}

impl FromStr for AccessPoint {
    type Err = NotAnAccessPoint;

    fn from_str(text: &str) -> Result<Self, NotAnAccessPoint> {
        let wrong = || NotAnAccessPoint(text.to_owned());
        let (account, id) = match text.split_once('/') {
            Some((account, id)) => (AccountId::parse(account).ok_or_else(wrong)?, id),
            None => (AccountId::default(), text),
        };
        let digits = id.strip_prefix("fsap-").ok_or_else(wrong)?;
        let fits = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if digits.len() != 17 || !digits.bytes().all(fits) {
            return Err(wrong());
        }
        Ok(Self { account, id: id.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_point_is_one_accounts() {
        let point: AccessPoint = "fsap-0123456789abcdef0".parse().unwrap();
        let arn = |account: &str, id: &str| format!("arn:aws:elasticfilesystem:eu-west-1:{account}:access-point/{id}");
        assert!(point.is(&arn("000000000000", "fsap-0123456789abcdef0")));
        assert!(!point.is(&arn("123456789012", "fsap-0123456789abcdef0")));
        assert!(!point.is(&arn("000000000000", "fsap-0123456789abcdef1")));
        assert!(!point.is("arn:aws:s3:::fsap-0123456789abcdef0"));
        let point: AccessPoint = "123456789012/fsap-0123456789abcdef0".parse().unwrap();
        assert!(point.is(&arn("123456789012", "fsap-0123456789abcdef0")));
        for wrong in
            ["", "data", "fsap-1", "fsap-0123456789ABCDEF0", "12/fsap-0123456789abcdef0", "fsap-0123456789abcdef0/x"]
        {
            assert!(wrong.parse::<AccessPoint>().is_err(), "{wrong}");
        }
    }
}
