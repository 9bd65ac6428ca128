package virtual

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"knarr.dev/knarr/appliance/apiserver/resource"
)

// Token answers whose a bearer token is.
func Token(env *resource.Env) (rest.Storage, error) {
	return &question[authenticationv1.TokenReview]{answer: func(ctx context.Context, review *authenticationv1.TokenReview) error {
		if review.Spec.Token == "" {
			return apierrors.NewBadRequest("token is required for TokenReview in authentication")
		}
		// What is not one word would be cut to something else on its way, or to nothing: then others than those who
		// know tokens would be asked.
		if words := strings.Fields(review.Spec.Token); len(words) != 1 || words[0] != review.Spec.Token {
			review.Status = authenticationv1.TokenReviewStatus{Error: "a token is one word"}
			return nil
		}
		audiences := authenticator.Audiences(review.Spec.Audiences)
		if len(audiences) == 0 {
			audiences = env.Audiences
		}
		if len(audiences) > 0 {
			ctx = authenticator.WithAudiences(ctx, audiences)
		}
		// The token is asked about the way it would be presented, so that a review cannot differ from a request.
		presented := (&http.Request{URL: &url.URL{Path: "/"}, Header: http.Header{"Authorization": {"Bearer " + review.Spec.Token}}}).WithContext(ctx)
		response, ok, err := env.Authenticator.AuthenticateRequest(presented)
		review.Status = authenticationv1.TokenReviewStatus{Authenticated: ok && err == nil}
		if err != nil {
			review.Status.Error = err.Error()
		}
		if !review.Status.Authenticated {
			return nil
		}
		if len(audiences) > 0 && len(audiences.Intersect(response.Audiences)) == 0 {
			review.Status = authenticationv1.TokenReviewStatus{Error: "the token is for none of the audiences asked about"}
			return nil
		}
		review.Status.User = userInfo(response.User)
		review.Status.Audiences = response.Audiences
		return nil
	}}, nil
}

// Self answers who is asking.
func Self(*resource.Env) (rest.Storage, error) {
	return &question[authenticationv1.SelfSubjectReview]{answer: func(ctx context.Context, review *authenticationv1.SelfSubjectReview) error {
		asking, ok := genericapirequest.UserFrom(ctx)
		if !ok {
			return apierrors.NewBadRequest("no user on the request")
		}
		review.Status.UserInfo = userInfo(asking)
		return nil
	}}, nil
}

func userInfo(u user.Info) authenticationv1.UserInfo {
	info := authenticationv1.UserInfo{Username: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups()}
	for key, values := range u.GetExtra() {
		if info.Extra == nil {
			info.Extra = map[string]authenticationv1.ExtraValue{}
		}
		info.Extra[key] = values
	}
	return info
}
