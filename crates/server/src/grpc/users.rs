//! `event_store.client.users.Users`: accounts, as official clients call them
//! (protocol 1.6). What the protocol calls groups are roles.
//!
//! Administrators may do everything here; whoever has an account may look at it and
//! change its password, knowing the present one. Nobody can take from themselves what
//! makes them an administrator, so that there always is one.

use std::sync::Arc;

use annals_core::access::ADMINS;
use annals_proto::event_store::client::users::details_resp::UserDetails;
use annals_proto::event_store::client::users::details_resp::user_details::DateTime;
use annals_proto::event_store::client::users::users_server::{Users, UsersServer};
use annals_proto::event_store::client::users::{
    ChangePasswordReq, ChangePasswordResp, CreateReq, CreateResp, DeleteReq, DeleteResp, DetailsReq, DetailsResp,
    DisableReq, DisableResp, EnableReq, EnableResp, ResetPasswordReq, ResetPasswordResp, UpdateReq, UpdateResp,
};
use futures::stream::{self, BoxStream, StreamExt as _};
use tonic::{Request, Response, Status};
use zeroize::Zeroizing;

use crate::access::account::{Account, Known};
use crate::access::{Caller, passwords, register};
use crate::blocking::blocking;
use crate::consistency::refuse_v1;
use crate::context::Context;
use crate::status::Failure;

/// The service.
pub(crate) fn service(context: Arc<Context>) -> UsersServer<Service> {
    UsersServer::new(Service { context }).max_decoding_message_size(super::MESSAGE_BYTES_MAX)
}

pub(crate) struct Service {
    context: Arc<Context>,
}

impl Service {
    fn answer<T>(&self, result: Result<T, Failure>) -> Result<Response<T>, Status> {
        result.map(Response::new).map_err(|failure| refuse_v1(&self.context, &failure))
    }

    /// Who calls, and what is asked for.
    async fn admin<T>(&self, request: Request<T>, act: &'static str) -> Result<(Caller, T), Failure> {
        let caller = self.context.caller(&request).await?;
        self.context.permit_admin(&caller, act)?;
        Ok((caller, request.into_inner()))
    }

    async fn find(&self, login: String) -> Result<Known, Failure> {
        let store = self.context.node.store().clone();
        blocking(move || register::find(&store, &login)).await
    }

    async fn hashed(&self, password: String) -> Result<Arc<str>, Failure> {
        let password = Zeroizing::new(password);
        self.context.access.passwords.run(move || passwords::hash(&password)).await?.map(Arc::from)
    }

    /// Changes an account as it is now.
    async fn change(
        &self,
        caller: &Caller,
        act: &'static str,
        login: String,
        change: impl FnOnce(&mut Account),
    ) -> Result<(), Failure> {
        let known = self.find(login).await?;
        let mut account = (*known.account).clone();
        change(&mut account);
        let stays_admin = !account.disabled && account.groups.iter().any(|group| group == ADMINS);
        keep_one_admin(caller, &known, stays_admin)?;
        register::replace(&self.context, caller, act, &known, &account).await
    }

    async fn create_user(&self, request: Request<CreateReq>) -> Result<CreateResp, Failure> {
        let (caller, request) = self.admin(request, "users:create").await?;
        let options = request.options.ok_or_else(no_options)?;
        let mut account = Account {
            login_name: options.login_name,
            full_name: options.full_name,
            groups: options.groups,
            disabled: false,
            hash: Arc::from(""),
        };
        // Before the password costs anything.
        register::check(&account)?;
        account.hash = self.hashed(options.password).await?;
        register::create(&self.context, &caller, &account).await?;
        Ok(CreateResp {})
    }

    async fn update_user(&self, request: Request<UpdateReq>) -> Result<UpdateResp, Failure> {
        let (caller, request) = self.admin(request, "users:update").await?;
        let options = request.options.ok_or_else(no_options)?;
        // Clients send the password along, or nothing.
        let hash = match options.password.is_empty() {
            true => None,
            false => Some(self.hashed(options.password).await?),
        };
        let change = |account: &mut Account| {
            account.full_name = options.full_name;
            account.groups = options.groups;
            if let Some(hash) = hash {
                account.hash = hash;
            }
        };
        self.change(&caller, "users:update", options.login_name, change).await?;
        Ok(UpdateResp {})
    }

    async fn delete_user(&self, request: Request<DeleteReq>) -> Result<DeleteResp, Failure> {
        let (caller, request) = self.admin(request, "users:delete").await?;
        let known = self.find(request.options.ok_or_else(no_options)?.login_name).await?;
        keep_one_admin(&caller, &known, false)?;
        register::remove(&self.context, &caller, &known).await?;
        Ok(DeleteResp {})
    }

    async fn disable_user(&self, request: Request<DisableReq>) -> Result<DisableResp, Failure> {
        let (caller, request) = self.admin(request, "users:disable").await?;
        let login = request.options.ok_or_else(no_options)?.login_name;
        self.change(&caller, "users:disable", login, |account| account.disabled = true).await?;
        Ok(DisableResp {})
    }

    async fn enable_user(&self, request: Request<EnableReq>) -> Result<EnableResp, Failure> {
        let (caller, request) = self.admin(request, "users:enable").await?;
        let login = request.options.ok_or_else(no_options)?.login_name;
        self.change(&caller, "users:enable", login, |account| account.disabled = false).await?;
        Ok(EnableResp {})
    }

    async fn reset(&self, request: Request<ResetPasswordReq>) -> Result<ResetPasswordResp, Failure> {
        let (caller, request) = self.admin(request, "users:resetPassword").await?;
        let options = request.options.ok_or_else(no_options)?;
        let hash = self.hashed(options.new_password).await?;
        self.change(&caller, "users:resetPassword", options.login_name, |account| account.hash = hash).await?;
        Ok(ResetPasswordResp {})
    }

    async fn change_own(&self, request: Request<ChangePasswordReq>) -> Result<ChangePasswordResp, Failure> {
        const ACT: &str = "users:changePassword";
        let caller = self.context.caller(&request).await?;
        let options = request.into_inner().options.ok_or_else(no_options)?;
        if caller.name() != options.login_name {
            self.context.permit_admin(&caller, ACT)?;
        }
        let known = self.find(options.login_name).await?;
        let present = Zeroizing::new(options.current_password);
        let hash = known.account.hash.clone();
        let right = self.context.access.passwords.run(move || passwords::verify(&present, &hash)).await?;
        if !right {
            return Err(self.context.deny(&caller, ACT, "the present password is another"));
        }
        let account = Account { hash: self.hashed(options.new_password).await?, ..(*known.account).clone() };
        register::replace(&self.context, &caller, ACT, &known, &account).await?;
        Ok(ChangePasswordResp {})
    }

    async fn tell(&self, request: Request<DetailsReq>) -> Result<Vec<Known>, Failure> {
        let caller = self.context.caller(&request).await?;
        let login = request.into_inner().options.map(|options| options.login_name).unwrap_or_default();
        if login.is_empty() || caller.name() != login {
            self.context.permit_admin(&caller, "users:details")?;
        }
        if login.is_empty() {
            let store = self.context.node.store().clone();
            return blocking(move || register::list(&store)).await;
        }
        Ok(vec![self.find(login).await?])
    }
}

fn no_options() -> Failure {
    Failure::invalid("options", "the options are missing")
}

/// Refuses what would leave a cluster without an administrator: whoever changes
/// accounts is one, and stays one.
fn keep_one_admin(caller: &Caller, known: &Known, stays_admin: bool) -> Result<(), Failure> {
    let own = matches!(caller, Caller::Known(_)) && caller.name() == known.account.login_name;
    if own && known.principal.is_admin() && !stays_admin {
        let why = "this would take away your own rights as an administrator; another one has to do it";
        return Err(Failure::invalid("login_name", why));
    }
    Ok(())
}

fn told(known: &Known) -> DetailsResp {
    let account = &known.account;
    let last_updated = Some(DateTime { ticks_since_epoch: i64::try_from(known.changed.ticks()).unwrap_or(i64::MAX) });
    DetailsResp {
        user_details: Some(UserDetails {
            login_name: account.login_name.clone(),
            full_name: account.full_name.clone(),
            groups: account.groups.clone(),
            last_updated,
            disabled: account.disabled,
        }),
    }
}

#[tonic::async_trait]
impl Users for Service {
    async fn create(&self, request: Request<CreateReq>) -> Result<Response<CreateResp>, Status> {
        self.answer(self.create_user(request).await)
    }

    async fn update(&self, request: Request<UpdateReq>) -> Result<Response<UpdateResp>, Status> {
        self.answer(self.update_user(request).await)
    }

    async fn delete(&self, request: Request<DeleteReq>) -> Result<Response<DeleteResp>, Status> {
        self.answer(self.delete_user(request).await)
    }

    async fn disable(&self, request: Request<DisableReq>) -> Result<Response<DisableResp>, Status> {
        self.answer(self.disable_user(request).await)
    }

    async fn enable(&self, request: Request<EnableReq>) -> Result<Response<EnableResp>, Status> {
        self.answer(self.enable_user(request).await)
    }

    async fn change_password(
        &self,
        request: Request<ChangePasswordReq>,
    ) -> Result<Response<ChangePasswordResp>, Status> {
        self.answer(self.change_own(request).await)
    }

    async fn reset_password(&self, request: Request<ResetPasswordReq>) -> Result<Response<ResetPasswordResp>, Status> {
        self.answer(self.reset(request).await)
    }

    type DetailsStream = BoxStream<'static, Result<DetailsResp, Status>>;

    async fn details(&self, request: Request<DetailsReq>) -> Result<Response<Self::DetailsStream>, Status> {
        let known = self.tell(request).await;
        self.answer(known.map(|known| stream::iter(known).map(|known| Ok(told(&known))).boxed()))
    }
}
