//! Administering accounts.

use annals_proto::event_store::client::users::details_resp::UserDetails;
use annals_proto::event_store::client::users::users_client::UsersClient;
use annals_proto::event_store::client::users::{
    ChangePasswordReq, CreateReq, DeleteReq, DetailsReq, DisableReq, EnableReq, ResetPasswordReq, UpdateReq,
    change_password_req, create_req, delete_req, details_req, disable_req, enable_req, reset_password_req, update_req,
};
use futures::TryStreamExt as _;
use tonic::transport::Channel;

use crate::client::Deadline;
use crate::{Client, Error};

/// What administers accounts. Any node answers.
#[derive(Clone)]
pub struct Users {
    client: Client,
}

/// An account as the server tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name that credentials give.
    pub login: String,
    /// The person's name.
    pub full_name: String,
    /// Groups; `$admins` may do everything.
    pub groups: Vec<String>,
    /// Whether its credentials prove nothing for now.
    pub disabled: bool,
}

impl Users {
    pub(crate) fn new(client: Client) -> Self {
        Users { client }
    }

    /// Makes an account. Durable on return.
    ///
    /// # Errors
    /// There is one of this name, or something cannot be as given: the message says
    /// which.
    pub async fn create(&self, login: &str, password: &str, full_name: &str, groups: &[String]) -> Result<(), Error> {
        let options = create_req::Options {
            login_name: login.to_owned(),
            password: password.to_owned(),
            full_name: full_name.to_owned(),
            groups: groups.to_vec(),
        };
        let message = CreateReq { options: Some(options) };
        let request = || self.client.request(message.clone(), Deadline::Default);
        self.client.call(|channel| async move { service(channel).create(request()).await }).await.map(|_| ())
    }

    /// Gives an account this full name and exactly these groups.
    ///
    /// # Errors
    /// There is none of this name, or it has just been changed.
    pub async fn update(&self, login: &str, full_name: &str, groups: &[String]) -> Result<(), Error> {
        let options = update_req::Options {
            login_name: login.to_owned(),
            password: String::new(),
            full_name: full_name.to_owned(),
            groups: groups.to_vec(),
        };
        let message = UpdateReq { options: Some(options) };
        let request = || self.client.request(message.clone(), Deadline::Default);
        self.client.call(|channel| async move { service(channel).update(request()).await }).await.map(|_| ())
    }

    /// Removes an account.
    ///
    /// # Errors
    /// As [`Users::update`].
    pub async fn delete(&self, login: &str) -> Result<(), Error> {
        let message = DeleteReq { options: Some(delete_req::Options { login_name: login.to_owned() }) };
        let request = || self.client.request(message.clone(), Deadline::Default);
        self.client.call(|channel| async move { service(channel).delete(request()).await }).await.map(|_| ())
    }

    /// From now on its credentials prove nothing.
    ///
    /// # Errors
    /// As [`Users::update`].
    pub async fn disable(&self, login: &str) -> Result<(), Error> {
        let message = DisableReq { options: Some(disable_req::Options { login_name: login.to_owned() }) };
        let request = || self.client.request(message.clone(), Deadline::Default);
        self.client.call(|channel| async move { service(channel).disable(request()).await }).await.map(|_| ())
    }

    /// Its credentials count again.
    ///
    /// # Errors
    /// As [`Users::update`].
    pub async fn enable(&self, login: &str) -> Result<(), Error> {
        let message = EnableReq { options: Some(enable_req::Options { login_name: login.to_owned() }) };
        let request = || self.client.request(message.clone(), Deadline::Default);
        self.client.call(|channel| async move { service(channel).enable(request()).await }).await.map(|_| ())
    }

    /// Gives an account another password, as an administrator.
    ///
    /// # Errors
    /// As [`Users::update`].
    pub async fn reset_password(&self, login: &str, password: &str) -> Result<(), Error> {
        let options = reset_password_req::Options { login_name: login.to_owned(), new_password: password.to_owned() };
        let message = ResetPasswordReq { options: Some(options) };
        let request = || self.client.request(message.clone(), Deadline::Default);
        self.client.call(|channel| async move { service(channel).reset_password(request()).await }).await.map(|_| ())
    }

    /// Gives an account another password, knowing the present one.
    ///
    /// # Errors
    /// The present one is another; or as [`Users::update`].
    pub async fn change_password(&self, login: &str, present: &str, password: &str) -> Result<(), Error> {
        let options = change_password_req::Options {
            login_name: login.to_owned(),
            current_password: present.to_owned(),
            new_password: password.to_owned(),
        };
        let message = ChangePasswordReq { options: Some(options) };
        let request = || self.client.request(message.clone(), Deadline::Default);
        self.client.call(|channel| async move { service(channel).change_password(request()).await }).await.map(|_| ())
    }

    /// All accounts, by name; or the one of this name.
    ///
    /// # Errors
    /// There is none of this name.
    pub async fn list(&self, login: Option<&str>) -> Result<Vec<User>, Error> {
        let login_name = login.unwrap_or_default().to_owned();
        let message = DetailsReq { options: Some(details_req::Options { login_name }) };
        let request = || self.client.request(message.clone(), Deadline::Default);
        let details = self.client.call(|channel| async move { service(channel).details(request()).await }).await?;
        let details: Vec<_> = details.try_collect().await?;
        Ok(details.into_iter().filter_map(|details| details.user_details).map(User::from).collect())
    }
}

impl From<UserDetails> for User {
    fn from(details: UserDetails) -> Self {
        User {
            login: details.login_name,
            full_name: details.full_name,
            groups: details.groups,
            disabled: details.disabled,
        }
    }
}

fn service(channel: Channel) -> UsersClient<Channel> {
    UsersClient::new(channel)
}
